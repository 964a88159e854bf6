"""Create the tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from proxy.storage.tables import AnyText

revision = "0001"
down_revision = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create all tables."""
    _create_assets()
    _create_files()
    _create_outputs()
    _create_history()
    _create_jobs()
    _create_members()
    _create_usage()
    _create_costs()
    _create_webhooks()
    _create_billing()
    _create_process()


def _create_assets() -> None:
    op.create_table(
        "asset_exports",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("entries", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("member", "id", name=op.f("pk_asset_exports")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_asset_exports_member_key", "asset_exports", ["member", "key"])
    op.create_index("ix_asset_exports_member_name", "asset_exports", ["member", "name"])
    op.create_table(
        "asset_tags",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("tag", AnyText(), nullable=False),
        sa.Column("automatic", sa.Boolean(), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("member", "asset", "tag", name=op.f("pk_asset_tags")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_asset_tags_member_tag", "asset_tags", ["member", "tag"])
    op.create_table(
        "assets",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", AnyText(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("path", AnyText(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("media_type", AnyText(), nullable=True),
        sa.Column("job", AnyText(), nullable=True),
        sa.Column("preview", sa.Text(), nullable=True),
        sa.Column("user_metadata", sa.LargeBinary(), nullable=False),
        sa.Column("metadata", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("last_access_time", sa.BigInteger(), nullable=True),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("member", "id", name=op.f("pk_assets")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_assets_member_created_at_id", "assets", ["member", "created_at", "id"])
    op.create_index("ix_assets_member_hash", "assets", ["member", "hash"])
    op.create_index("ix_assets_member_job", "assets", ["member", "job"])
    op.create_index("ix_assets_member_preview", "assets", ["member", "preview"])
    op.create_index("ix_assets_member_type_path", "assets", ["member", "type", "path"])


def _create_files() -> None:
    op.create_table(
        "blobs",
        sa.Column("identity", AnyText(), nullable=False),
        sa.Column("cloud_name", AnyText(), nullable=False),
        sa.Column("sent", sa.Boolean(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("identity", "cloud_name", "sent", name=op.f("pk_blobs")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_blobs_cloud_name", "blobs", ["cloud_name"], unique=False)
    op.create_index("ix_blobs_hash", "blobs", ["hash"], unique=False)
    op.create_table(
        "file_counters",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("subfolder", AnyText(), nullable=False),
        sa.Column("stem", AnyText(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "member", "type", "subfolder", "stem", name=op.f("pk_file_counters")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "files",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("path", AnyText(), nullable=False),
        sa.Column("cloud_name", AnyText(), nullable=False),
        sa.Column("cloud_type", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("media_type", AnyText(), nullable=False),
        sa.Column("modified", sa.Double(), nullable=False),
        sa.Column("account", AnyText(), nullable=False),
        sa.Column("job", AnyText(), nullable=True),
        sa.PrimaryKeyConstraint("member", "type", "path", name=op.f("pk_files")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_files_member_cloud_name", "files", ["member", "cloud_name"], unique=False)
    op.create_index("ix_files_member_hash", "files", ["member", "hash"], unique=False)
    op.create_index("ix_files_member_job", "files", ["member", "job"], unique=False)


def _create_outputs() -> None:
    op.create_table(
        "pack_pictures",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("id", AnyText(), nullable=False),
        sa.Column("content_type", AnyText(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.Column("fetched", sa.BigInteger(), nullable=False),
        sa.Column("account", AnyText(), nullable=True),
        sa.Column("cloud_name", AnyText(), nullable=True),
        sa.Column("cloud_type", sa.Text(), nullable=True),
        sa.Column("encoding", sa.Text(), nullable=True),
        sa.Column("signature", sa.Text(), nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("member", "id", name=op.f("pk_pack_pictures")),
    )
    op.create_index(
        "ix_pack_pictures_member_signature",
        "pack_pictures",
        ["member", "signature"],
        unique=False,
    )
    op.create_index("ix_pack_pictures_used_at", "pack_pictures", ["used_at"], unique=False)
    op.create_table(
        "published_workflows",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("publisher", AnyText(), nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("member", "publisher", name=op.f("pk_published_workflows")),
    )
    op.create_index(
        "ix_published_workflows_published_at",
        "published_workflows",
        ["published_at"],
        unique=False,
    )
    op.create_table(
        "missing_outputs",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("path", AnyText(), nullable=False),
        sa.Column("missing_since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("member", "path", name=op.f("pk_missing_outputs")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outputs",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("job", AnyText(), nullable=False),
        sa.Column("node", AnyText(), nullable=False),
        sa.Column("given", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("member", "job", "node", name=op.f("pk_outputs")),
        sqlite_with_rowid=False,
    )


def _create_history() -> None:
    op.create_table(
        "history",
        sa.Column("order", KEY, autoincrement=False, nullable=False),
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("prompt_id", AnyText(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("workflow_id", AnyText(), nullable=True),
        sa.Column("client_id", AnyText(), nullable=True),
        sa.Column("cloud_id", AnyText(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("outputs_to_execute", sa.Text(), nullable=False),
        sa.Column("summary", sa.LargeBinary(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=False),
        sa.Column("label", AnyText(), nullable=False),
        sa.Column("details", sa.LargeBinary(), nullable=False),
        sa.Column("node_times", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("order", name=op.f("pk_history")),
        sa.UniqueConstraint("member", "prompt_id", name=op.f("uq_history_member_prompt_id")),
    )
    op.create_index("ix_history_cloud_id", "history", ["cloud_id"], unique=False)
    op.create_index(
        "ix_history_listed",
        "history",
        ["member", "created_at", "state", "workflow_id", "started_at", "ended_at", "sequence"],
        unique=False,
    )
    op.create_index("ix_history_member_sequence", "history", ["member", "sequence"], unique=True)
    op.create_index("ix_history_member_ordinal", "history", ["member", "ordinal"], unique=True)
    op.create_index(
        "ix_history_searched", "history", ["ended_at", "member", "label", "prompt_id"], unique=False
    )
    op.create_index("ix_history_member_ended_at", "history", ["member", "ended_at"], unique=False)
    op.create_index("ix_history_state_ended_at", "history", ["state", "ended_at"], unique=False)


def _create_jobs() -> None:
    op.create_table(
        "job_payloads",
        sa.Column("order", KEY, autoincrement=False, nullable=False),
        sa.Column("graph", sa.LargeBinary(), nullable=False),
        sa.Column("extra_data", sa.LargeBinary(), nullable=False),
        sa.Column("targets", sa.LargeBinary(), nullable=True),
        sa.Column("rewriting", sa.LargeBinary(), nullable=True),
        sa.Column("credentials", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("order", name=op.f("pk_job_payloads")),
    )
    op.create_table(
        "jobs",
        sa.Column("order", KEY, autoincrement=True, nullable=False),
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("prompt_id", AnyText(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("client_id", AnyText(), nullable=True),
        sa.Column("workflow_id", AnyText(), nullable=True),
        sa.Column("account", AnyText(), nullable=False),
        sa.Column("cloud_id", AnyText(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("outputs_to_execute", sa.Text(), nullable=False),
        sa.Column("watched", sa.Boolean(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("one_at_a_time", sa.Boolean(), nullable=False),
        sa.Column("submitter", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("trace", sa.Text(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("interrupted", sa.Boolean(), nullable=False),
        sa.Column("charge", sa.Double(), nullable=False),
        sa.Column("label", AnyText(), nullable=False),
        sa.Column("estimate", sa.BigInteger(), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
        sa.Column("partner_nodes", sa.BigInteger(), nullable=False),
        sa.Column("ceiling", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("order", name=op.f("pk_jobs")),
        sa.UniqueConstraint("member", "prompt_id", name=op.f("uq_jobs_member_prompt_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_cloud_id", "jobs", ["cloud_id"], unique=False)
    op.create_index("ix_jobs_member_estimate", "jobs", ["member", "estimate"], unique=False)
    op.create_table(
        "job_numbers",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("next", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("ended", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("member", name=op.f("pk_job_numbers")),
    )
    op.create_table(
        "shares",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("start", sa.Double(), nullable=True),
        sa.Column("typical", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("member", name=op.f("pk_shares")),
    )


def _create_members() -> None:
    op.create_table(
        "members",
        sa.Column("key", AnyText(), nullable=False),
        sa.Column("name", AnyText(), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_members")),
    )
    op.create_table(
        "invitations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("inviter", AnyText(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitations")),
    )
    op.create_index("ix_invitations_member", "invitations", ["member"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sessions")),
    )
    op.create_index("ix_sessions_token", "sessions", ["token"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("note", AnyText(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=True),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.Column("used_from", AnyText(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    op.create_index("ix_tokens_member", "tokens", ["member"], unique=False)
    op.create_table(
        "userdata",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("path", AnyText(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("modified", sa.Double(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("member", "path", name=op.f("pk_userdata")),
    )


def _create_usage() -> None:
    op.create_table(
        "account_activity",
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("account", AnyText(), nullable=False),
        sa.Column("slots", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("at", "account", name=op.f("pk_account_activity")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "activity",
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("running", sa.BigInteger(), nullable=False),
        sa.Column("waiting", sa.BigInteger(), nullable=False),
        sa.Column("completed", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("busy", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("at", "member", name=op.f("pk_activity")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit",
        sa.Column("key", KEY, autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_action", "audit", ["action"], unique=False)
    op.create_index("ix_audit_at", "audit", ["at"], unique=False)
    op.create_index("ix_audit_member", "audit", ["member"], unique=False)
    op.create_table(
        "observations",
        sa.Column("identity", AnyText(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", AnyText(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("identity", "kind", "name", name=op.f("pk_observations")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run_times",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", AnyText(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_run_times")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage",
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("submitted", sa.BigInteger(), nullable=False),
        sa.Column("withdrawn", sa.BigInteger(), nullable=False),
        sa.Column("completed", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("cancelled", sa.BigInteger(), nullable=False),
        sa.Column("running_seconds", sa.Double(), nullable=False),
        sa.Column("outputs", sa.BigInteger(), nullable=False),
        sa.Column("bytes_up", sa.BigInteger(), nullable=False),
        sa.Column("bytes_down", sa.BigInteger(), nullable=False),
        sa.Column("credits_reported", sa.BigInteger(), nullable=False),
        sa.Column("credits_estimated", sa.BigInteger(), nullable=False),
        sa.Column("unknown_costs", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("day", "member", "token", name=op.f("pk_usage")),
        sqlite_with_rowid=False,
    )


def _create_costs() -> None:
    op.create_table(
        "costs",
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("account", AnyText(), nullable=False),
        sa.Column("node_class", AnyText(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("nodes", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(
            "day", "member", "account", "node_class", "source", "token", name=op.f("pk_costs")
        ),
        sqlite_with_rowid=False,
    )


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("url", AnyText(), nullable=False),
        sa.Column("types", sa.LargeBinary(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("disabled", AnyText(), nullable=True),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.Column("failing_since", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index("ix_webhooks_member", "webhooks", ["member"], unique=False)
    op.create_table(
        "webhook_deliveries",
        sa.Column("webhook", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("url", AnyText(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("attempted", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("note", AnyText(), nullable=False),
        sa.PrimaryKeyConstraint("webhook", "message", name=op.f("pk_webhook_deliveries")),
    )
    for columns in (
        ["due"],
        ["webhook", "due", "created"],
        ["webhook", "created"],
        ["message"],
    ):
        op.create_index(f"ix_webhook_deliveries_{'_'.join(columns)}", "webhook_deliveries", columns)
    op.create_table(
        "webhook_messages",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_messages")),
    )


def _create_billing() -> None:
    op.create_table(
        "budget_notices",
        sa.Column("member", AnyText(), nullable=False),
        sa.Column("budget", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("began", sa.Text(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.Boolean(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("told", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint(
            "member", "budget", "amount", "stage", "began", name=op.f("pk_budget_notices")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "billing",
        sa.Column("account", AnyText(), nullable=False),
        sa.Column("access", sa.Text(), nullable=False),
        sa.Column("read_from", sa.BigInteger(), nullable=True),
        sa.Column("read_to", sa.BigInteger(), nullable=True),
        sa.Column("tried_at", sa.BigInteger(), nullable=True),
        sa.Column("balance_cents", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("entered", sa.BigInteger(), nullable=True),
        sa.Column("entered_at", sa.BigInteger(), nullable=True),
        sa.Column("spent_before", sa.BigInteger(), nullable=True),
        sa.Column("ledger_read", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_billing")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "booked",
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("account", AnyText(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "account", "event_type", name=op.f("pk_booked")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "booked_events",
        sa.Column("account", AnyText(), nullable=False),
        sa.Column("event_id", AnyText(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account", "event_id", name=op.f("pk_booked_events")),
        sqlite_with_rowid=False,
    )


def _create_process() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "meta",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_meta")),
    )

"""The routes below `/proxy/`, and those for monitoring that only admins may read."""

from __future__ import annotations

from functools import partial

from proxy.admin import (
    audit,
    dashboard,
    gallery,
    members,
    metrics,
    provider_sign_in,
    runs,
    sign_in,
    usage,
    validation,
    webhooks,
)
from proxy.api import extension
from proxy.api.authenticator import SIGN_IN, SIGN_OUT
from proxy.api.routes import Route

#: A route without a twin below `/api`.
_only = partial(Route, twin=False)

ROUTES = (
    _only("GET", "/metrics", metrics.get_metrics, apart=True),
    _only("GET", "/proxy/api/usage", usage.get_usage),
    _only("GET", "/proxy/api/audit", audit.get_audit, apart=True),
    _only("GET", "/proxy/api/cloud-anomalies", metrics.get_anomalies, apart=True),
    _only("GET", "/proxy", dashboard.get_bare),
    _only("GET", "/proxy/", dashboard.get_page),
    _only("GET", "/proxy/page/{name}", dashboard.get_part),
    _only("GET", "/proxy/api/state", dashboard.get_state),
    _only("GET", "/proxy/api/events", dashboard.get_events),
    _only("GET", "/proxy/api/interface", extension.get_interface),
    _only("GET", "/proxy/api/billing", usage.get_balances),
    _only("PATCH", "/proxy/api/billing/{account}", usage.enter_balance),
    _only("GET", "/proxy/api/jobs", gallery.list_jobs),
    _only("GET", "/proxy/api/jobs/{id}", gallery.get_job),
    _only("GET", "/proxy/api/thumbnail", gallery.get_thumbnail),
    _only("GET", "/proxy/api/run", runs.get_run),
    _only("GET", "/proxy/api/preview", runs.get_preview),
    _only("GET", "/proxy/api/workflow", runs.get_workflow),
    _only("POST", "/proxy/api/jobs/cancel", dashboard.cancel),
    _only("POST", "/proxy/api/jobs/release", dashboard.release),
    _only("POST", "/proxy/api/validate", validation.validate),
    # members
    _only("GET", SIGN_IN, sign_in.get_sign_in),
    _only("POST", SIGN_IN, sign_in.post_sign_in),
    _only("POST", SIGN_OUT, sign_in.post_sign_out),
    _only("GET", f"{SIGN_IN}/{{provider}}", provider_sign_in.get_provider_sign_in),
    _only("GET", f"{SIGN_IN}/{{provider}}/callback", provider_sign_in.get_provider_callback),
    _only("GET", "/proxy/api/members", members.list_members),
    _only("POST", "/proxy/api/members", members.add_member),
    _only("PATCH", "/proxy/api/members/{name}", members.change_member),
    _only("DELETE", "/proxy/api/members/{name}", members.remove_member),
    _only("GET", "/proxy/api/tokens", members.list_tokens),
    _only("POST", "/proxy/api/tokens", members.make_token),
    _only("DELETE", "/proxy/api/tokens/{prefix}", members.revoke_token),
    # webhooks
    _only("GET", "/proxy/api/webhooks", webhooks.list_webhooks),
    _only("POST", "/proxy/api/webhooks", webhooks.add_webhook),
    _only("PATCH", "/proxy/api/webhooks/{id}", webhooks.change_webhook),
    _only("DELETE", "/proxy/api/webhooks/{id}", webhooks.remove_webhook),
    _only("POST", "/proxy/api/webhooks/{id}/secret", webhooks.replace_webhook_secret),
    _only("POST", "/proxy/api/webhooks/{id}/test", webhooks.send_test),
    _only("GET", "/proxy/api/webhooks/{id}/deliveries", webhooks.list_deliveries),
)

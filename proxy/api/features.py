"""The feature flags: what each means to the newest web interface, and what it is told.

`GET /features` and the websocket announce the same, ours and never the cloud's: a flag of the cloud
can change how a local client reads what we send.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy.api.server import Services


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that the web interface reads. A dot in its name leads into an object.

    `value` gives what is announced; a flag without one is left out, and the web interface then
    continues as with a ComfyUI that does not know the flag. `shown` and `why` are for the
    documents.
    """

    name: str
    why: str
    value: Callable[[Services], Any] | None = None
    shown: str = "left out"


def _yes(_: Services) -> bool:
    return True


_BILLING = "Plans and payments are managed at comfy.org: the account is not the browser's."
_ACCOUNT = "Signing in is not needed: the account's key is the proxy's."
_WEB_APP = "A part of Comfy Cloud's own pages, which needs their routes."

#: Every flag that the web interface reads, of either source.
FLAGS: tuple[Flag, ...] = (
    Flag(
        "supports_preview_metadata",
        "Previews name their node and job for clients that announce the same.",
        _yes,
        "true",
    ),
    Flag(
        "supports_model_type_tags",
        "Models are assets with a tag `model_type:<folder>`.",
        _yes,
        "true",
    ),
    Flag(
        "max_upload_size",
        "Bytes of a file: the lower of `max_upload_mb` and of what the accounts take.",
        lambda services: services.most_upload_bytes,
        "bytes",
    ),
    Flag(
        "extension.manager.supports_v4",
        "As in ComfyUI. ComfyUI-Manager stays hidden, because the arguments do not enable it.",
        _yes,
        "true",
    ),
    Flag("node_replacements", "`GET /node_replacements` answers with the cloud's.", _yes, "true"),
    Flag(
        "assets",
        "The panels for pictures and models read `/api/assets`, unless `assets` is off.",
        lambda services: services.assets is not None,
        "true with `assets`",
    ),
    Flag(
        "partner_run_gate_enabled",
        "With `send_partner_key` the account pays for partner nodes, so that they run without "
        "signing in; otherwise the button asks to sign in.",
        lambda services: not services.pays_partner_nodes,
        "false with `send_partner_key`",
    ),
    Flag(
        "supports_progress_text_metadata",
        "With it texts of nodes would be read in a form that ComfyUI does not send.",
    ),
    Flag(
        "asset_deletion_enabled",
        "Deleting an asset leaves its file, as in ComfyUI; the page says so without this flag.",
    ),
    Flag("extension.manager.supports_csrf_post", "ComfyUI-Manager is not there."),
    Flag("enable_telemetry", "No telemetry is sent for the proxy."),
    Flag("agent", "The assistant is a program beside your own ComfyUI."),
    Flag("agent-in-app-experience", "The assistant is a program beside your own ComfyUI."),
    Flag("deploy_to_cloud", "The workflow runs on the cloud already."),
    Flag("linear_toggle_enabled", "As in ComfyUI: the page offers its app mode."),
    Flag("node_library_essentials_enabled", "As in ComfyUI: the list of all nodes comes first."),
    Flag("onboarding_tour_enabled", "As in ComfyUI: no tour."),
    Flag("model_upload_button_enabled", "The cloud takes no models from here."),
    Flag("private_models_enabled", "The cloud takes no models from here."),
    Flag("show_signin_button", _ACCOUNT),
    Flag("local_web_sso", _ACCOUNT),
    Flag("sso_enabled", _ACCOUNT),
    Flag("unified_cloud_auth", _ACCOUNT),
    Flag("unified_web_session", _ACCOUNT),
    Flag("partner_node_token", "Only who signs in at comfy.org has such a token."),
    Flag("user_secrets_enabled", "Keys of model sites are kept at comfy.org."),
    Flag("firebase_config", "The page signs in where ComfyUI's page does."),
    Flag("firebase_env", "The page signs in where ComfyUI's page does."),
    Flag("comfy_api_base_url", "The page signs in where ComfyUI's page does."),
    Flag("comfy_cloud_base_url", "The page signs in where ComfyUI's page does."),
    Flag("comfy_platform_base_url", "The page signs in where ComfyUI's page does."),
    Flag("partner_node_governance_enabled", "What members may run is the proxy's to say."),
    Flag("comfyhub_upload_enabled", _WEB_APP),
    Flag("comfyhub_profile_gate_enabled", _WEB_APP),
    Flag("onboarding_survey", _WEB_APP),
    Flag("onboarding_survey_enabled", _WEB_APP),
    Flag("cancellation_survey_id", _WEB_APP),
    Flag("manager_survey_url", _WEB_APP),
    Flag("signup_turnstile", _WEB_APP),
    Flag("hosted_billing_destination", _BILLING),
    Flag("billing_web_url", _BILLING),
    Flag("embedded_checked_enabled", _BILLING),
    Flag("stripe_publishable_key", _BILLING),
    Flag("billing_control_enabled", _BILLING),
    Flag("legacy_billing_migration_enabled", _BILLING),
    Flag("billing_sdk_topup_enabled", _BILLING),
    Flag("billing_sdk_subscription_enabled", _BILLING),
    Flag("v1_payment_recovery", _BILLING),
    Flag("unified_billing_settings", _BILLING),
    Flag("auto_top_up_enabled", _BILLING),
    Flag("member_credit_limits_enabled", _BILLING),
    Flag("free_tier_job_allowance_enabled", _BILLING),
    Flag("free_tier_balance", _BILLING),
    Flag("free_tier_credits", _BILLING),
    Flag("free_tier_offer", _BILLING),
    Flag("new_free_tier_subscriptions", _BILLING),
)


def features(services: Services) -> dict[str, Any]:
    """The flags that are announced."""
    announced: dict[str, Any] = {}
    for flag in FLAGS:
        if flag.value is not None:
            *folders, name = flag.name.split(".")
            place = announced
            for folder in folders:
                place = place.setdefault(folder, {})
            place[name] = flag.value(services)
    return announced

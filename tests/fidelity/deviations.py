"""Where our answers differ from those of the recorded ComfyUI 0.3.64, and why.

A difference that no row explains fails its test, and so does a row about one recording alone that
explains nothing. Rows are regular expressions: the whole name of the recording, a part of the
request or `ws NAME`, the whole difference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """Differences with one reason. With `chance` they may also be absent."""

    recording: str
    where: str
    difference: str
    reason: str
    chance: bool = False

    def explains(self, recording: str, where: str, difference: str) -> bool:
        return (
            re.fullmatch(self.recording, recording) is not None
            and re.search(self.where, where) is not None
            and re.fullmatch(self.difference, difference, re.DOTALL) is not None
        )


REFUSED = r"status: 200 → 400|body: (\+ error|- prompt_id|- number)"
ENTRY_MISSING = r"body: - .*"
STREAM = r"(status|ends|order|messages): .*|runs .*"

# fmt: off
DEVIATIONS = (
    # --- what holds everywhere
    Row(".*", "", r"500 → 400 in the error form",
        "Where ComfyUI answers with a page that it got itself in trouble, we say what is wrong."),
    Row(".*", "", r"body\..*(prompt|queue_running|queue_pending)\[\](\[\])?: \+ create_time",
        "Newest: the time of the submission is in extra_data."),
    Row(".*", "/view", r"header x-content-type-options:  → nosniff",
        "Newest: files are sent with nosniff."),
    Row(".*", "/view|/userdata/|/api/etn/image", r"header (content-security-policy:  → sandbox.*|"
        r"x-content-type-options:  → nosniff)",
        "What members choose the bytes of must never run in the origin of a gateway."),
    Row(".*", "/view", r"header (cache-control:  → no-cache|etag:  → .*)",
        "Newest: every answer has a tag, and caches ask each time."),
    Row(".*", "/view", r"header content-disposition: (filename.*) → attachment; \1",
        "Octets are an attachment, as every browser treats them.", chance=True),
    Row(".*", "ws|features", r"(feature_flags|body): \+ (supports_model_type_tags|extension"
        r"|node_replacements|assets|partner_run_gate_enabled)",
        "Newest: more feature flags."),
    Row(".*", "/upload/", r"body: \+ asset",
        "Newest: an upload has its record in the assets API."),
    Row(".*", "history|jobs|ws", r".*\[\]: \+ (id|preview_id)",
        "Newest: an output has the id of its record in the assets API."),
    Row(".*", "object_info", r"body\.\w+: \+ (is_input_list|has_intermediate_output"
        r"|search_aliases|essentials_category|dev_only)",
        "Newest: more fields of a node class."),
    Row("prompt_.*|free", "", r".*\.images\[\]\.filename: (\w+)_\d+_\.png → (\w+)_\d+_\.png",
        "Outputs of nodes that the cloud had cached get names of this job: the cache is the "
        "account's, and whose run filled it is not told.", chance=True),
    Row(".*", "ws", r"runs overlap",
        "The cloud begins the next job while the end of the one before is being confirmed.",
        chance=True),

    # --- newest ComfyUI, not 0.3.64
    Row("http_origin", "Sec-Fetch-Site", r"status: 200 → 403|header content-type: .* → "
        r"|body: 37 bytes → 0 bytes",
        "Newest: a request from another site is refused by Sec-Fetch-Site."),
    Row("http_.*|view_errors", r"\.(png|js|css)|index\.json|GET /view/rgb", r"header cache-control:"
        r" (no-cache → no-store|public, max-age=86400 → public, max-age=3600)",
        "Newest: scripts are never stored, a missing picture is missing for an hour."),
    Row("http_unknown_routes", "newer versions", r"status: 404 → (200|503)|header .*"
        r"|body: 0 bytes → \d+ bytes",
        "Newest: these routes exist."),
    Row("view_types", r"\.(x?html|svg|m?js|css|xml)", r"header (cache-control:  → no-store"
        r"|vary:  → Sec-Fetch-Dest|content-disposition: (filename.*) → attachment; \2"
        r"|content-type: .* → application/octet-stream)",
        "Newest: what a browser could run is an attachment of octets."),
    Row("info_small", "system_stats", r"body\.system: \+ (comfy_package_versions"
        r"|deploy_environment)",
        "Newest: more about the system."),
    Row("validation_errors", "class", r"body\.error\.(type: invalid_prompt → missing_node_type"
        r"|message: .*|extra_info: \+ (node_id|class_type|node_title))",
        "Newest: a missing class has an error type of its own."),
    Row("validation_errors", "cycle", r"body\.node_errors: \+ [12]",
        "Newest: a cycle is an error of its nodes."),
    Row("validation_errors", "prompt an empty string", r"body\.error\..*",
        "Newest: 500, as for every other text."),
    Row("prompt_odd_prompt_ids", "POST /prompt", REFUSED,
        "Newest: a prompt_id that is no UUID is refused."),
    Row("prompt_odd_prompt_ids", r"\[null\]", r"body\.(prompt_id|number): .*",
        "Newest: for null the server picks an id."),
    Row("prompt_odd_prompt_ids", "GET /history/", ENTRY_MISSING, "Refused, so not there."),
    Row("prompt_odd_prompt_ids", "ws a", STREAM, "Refused, so not run."),
    Row("prompt_secrets", "GET /queue", r"body\..*: - (auth_token|api_key)_comfy_org",
        "Newest: credentials are not shown in the queue."),

    Row("upload_mask", "original (not there|with|subfolder outside|type unknown)",
        r"status: 200 → (400|403|404)|body: .*",
        "Newest: a mask of a picture that is missing or refused is refused."),
    Row("userdata", "(GET|HEAD) /userdata/", r"header (content-disposition:  → attachment"
        r"|x-content-type-options:  → nosniff)",
        "Newest: user data is an attachment."),
    Row("userdata", "full_info", r"body(\[\])?\.(modified|created): float → int",
        "Newest: times are in milliseconds."),
    Row("userdata", "move outside", r"status: 500 → 403|header .*|body: .*",
        "Newest: refused like every other name that leads out."),

    Row("upload_image", "/internal/files", r"body: 52 items → 51 items",
        "Newest: hidden files are not listed."),

    Row("cors", "", r"header access-control-allow-methods: (.*) → \1, PATCH",
        "Newest: PATCH is allowed."),

    # --- compressed answers
    Row("ws_compression", "", r"header sec-websocket-extensions: permessage-deflate.* → ",
        "Websockets are not compressed: a message of 4 KB could unpack to 4 MB."),

    # --- what kills or cripples a ComfyUI
    Row("fatal_(client_id_list|extra_data_null)", "POST /prompt", REFUSED,
        "Refused: the recorded server died, or its worker."),
    Row("fatal_(client_id_list|unserialisable_ui)", "ws a", r"the server died → it goes on",
        "Ours does not."),
    Row("fatal_(extra_data_null|same_number_and_id)", "GET /queue", r"body\.queue_.*",
        "The recorded worker was dead and its queue stood still; ours runs."),
    Row("fatal_(extra_data_null|same_number_and_id)", "ws a", STREAM,
        "The recorded worker was dead and its queue stood still; ours runs."),
    Row("fatal_same_number_and_id", "POST /prompt", r"status: 500 → 409|header .*|text: .*",
        "Newest: an id that waits or runs is refused with 409."),
    Row("prompt_frontend_like", "ws a", r"\w+: \+ workflow_id",
        "Newest: the id of the workflow is in the messages about its job."),
    Row("ws_feature_flags", "ws (nulldata|badjson|array)", r"messages: - 1 feature_flags",
        "Flags are read from the first text only, even where that is no object."),
    Row("fatal_feature_flags_list", r"ws a|GET /history", STREAM + r"|body\..*",
        "Flags that are no object are no flags; in ComfyUI they make the client's jobs fail."),

    # --- stricter than ComfyUI
    Row("prompt_number_nan", "POST /prompt", REFUSED,
        "A number that is not finite is refused: with it /queue and /history are not JSON."),
    Row("prompt_number_nan", r"GET /(queue|history)|ws a", STREAM + r"|body.*",
        "Refused, so not there."),
    Row("prompt_partial_targets", r"\[a string\]", REFUSED,
        "Targets that are no list are refused: ComfyUI looks for ids inside the text."),
    Row("prompt_partial_targets", r"GET /history/b219dade", ENTRY_MISSING, "Refused, so not run."),
    Row("prompt_partial_targets", "ws a", STREAM, "Refused, so not run."),
    Row("prompt_bad_bodies", r"POST /prompt \[UTF-16, declared\]", r"body\.error\..*",
        "Charsets other than UTF-8 are refused: some of Python's take quadratic time."),
    Row("prompt_partial_targets|prompt_bad_bodies", "", r"body\.number: \d → \d"
        r"|body\..*\.prompt\[\]: \d → \d",
        "A body that is refused for its form uses up no number."),

    # --- what a cloud cannot do, or does in its own way
    Row("prompt_custom_events", "ws", r"messages: - \d (oracle\.\w+|binary 77)",
        "Messages of a node pack's own do not leave the cloud."),
    Row("prompt_progress_text", "ws b", r"messages: - 1 binary 3",
        "A text goes to the job's client: the cloud does not say for whom the node meant it."),
    Row("free", "ws a", r"messages: - \d (progress_state|executing)",
        "There is no freeing the cloud's memory, so the third run is cached as well."),
    Row("interrupt_unheeded", r"ws a|GET /history", r"messages: - \d (progress_state|executing)"
        r"|body\..*messages\[\]\[\]\.(node_id|node_type|executed): .*",
        "The cloud stops a job at once; it does not wait for a node that pays no heed."),
    Row("prompt_race_history", r"right after execution_success|still counts", r"body.*",
        "The record is there before execution_success is told."),
    Row("prompt_secrets", r"GET /history|ws a", r".*\.output(s\.3)?\.text\[\]: .*",
        "Credentials are taken out of what a node shows."),
    Row("prompt_load_scale_save", "ws a", r"(progress_state|executing|executed)\..*",
        "Which of two branches runs first follows the order of a Python set."),
    Row("validation_errors", "inner VALIDATE_INPUTS raises", r"body\..*",
        "Which of two outputs is validated first follows the order of a Python set."),
    Row("error_then_next", "ws a", r"status: .*",
        "How far the first job was when the second was submitted.", chance=True),
    Row("object_info_class", "object_info", r"body\..*(tooltip|display_name|description"
        r"|output_tooltips).*",
        "The words in the catalog are the cloud's."),

    # --- nodes of clients, which core nodes stand for on the cloud
    Row("etn_.*|save_image_websocket", "ws|GET /history",
        r"messages: - \d (progress_state|executing)"
        r"|body\..*status\.messages\[\]\[\]\.nodes: \d items → \d items",
        "The cloud has cached what the recorded server had not: it knows files by their contents, "
        "and nodes by what stands in their place."),
    Row("etn_(apply_mask|krita_sequence|load_image_cache)", "ws", r"(progress_state|executing)\..*",
        "Which of two branches runs first follows the order of a Python set."),
    Row("etn_(load_image_cache|load_image_base64)", r"\[(palette\w*|one_bit|grey16)\]",
        r"content: .*",
        "The right colours, where the pack has palette indices and values that are clipped."),
    Row("etn_load_image_cache", r"\[history of grey_alpha\]", r"body\..*",
        "Grey with alpha is loaded; the pack stumbles over it."),
    Row("etn_load_image_cache", "ws", r"ends: .*|messages: (- 1 execution_error|\+ .*)",
        "Grey with alpha is loaded; the pack stumbles over it."),
    Row("etn_apply_mask", r"\[history of sizes differ\]", r"body\..*\.(nodes|executed): 1 items → "
        r"0 items",
        "The sizes are known before anything runs."),
    Row("etn_.*", "ws|GET /history", r".*current_inputs: - \w+",
        "Tensors are on the cloud: they are not shown."),
    Row("etn_apply_mask", "afterwards|lost its alpha|two masks: the first for all", r"content: .*",
        "Masks are repeated in turn, and the source keeps its alpha."),
    Row("etn_krita_sequence", r"\[(first|second)\]", r"content: .*",
        "The simulator scales colours in its own way."),
    Row("etn_apply_mask|etn_save_image_cache", r"\[RGBA( in: alpha 0.75 becomes 0.25)?\]",
        r"content: .*'RGBA'.*",
        "The simulator's masks have 8 bits: an inverted 0.25 is 192, not 191."),
    Row("etn_send_image_websocket", "ws krita", r"binary 1: .*'PNG', .*'RGB'.*",
        "The simulator's masks have 8 bits: ComfyUI rounds many inverted values down."),
    Row("etn_send_image_websocket", "three senders", r"body\..*\.meta\.3\..*: 2 → 3",
        "A node that has the result of another one is told by its own id."),
    Row("etn_fatal_jpeg_with_alpha", "ws krita", r"the server died → it goes on",
        "Ours refuses the picture in the words of ETN_SaveImageCache."),
    Row("etn_image_routes", "/api/etn/image", r"header content-disposition:  → attachment",
        "What is no picture is an attachment, so that no browser runs it."),
    Row("etn_image_routes", r"type with a parameter", r"status: 500 → 200|header .*|body: .*",
        "The parameters of a media type are left out; the pack stumbles over them."),
    Row("etn_image_routes", "raw .*Expect", r"status:  → HTTP/1.1 100 Continue",
        "Who waits for 100 Continue gets it; the pack lets them wait."),
    Row("etn_missing_classes", r"/prompt", r"body\.error\.(type|message|extra_info): .*",
        "Newest: a missing class has an error type of its own."),
    Row("etn_object_info", r"object_info/ETN_(Krita(Canvas|Selection|ImageLayer|MaskLayer|Style)"
        r"|Parameter|Reference|Apply(?!Mask)|Background|Define|List|Attention|Tile|Extract|Merge"
        r"|Generate)", r"body: - ETN_\w+",
        "Nodes that compute or that Krita replaces are not offered."),
    Row("etn_object_info", "/extensions", r"body: .*",
        "The recorded server had node packs with scripts."),
    Row("etn_krita_sequence", "ws krita 2", r"messages: - 2 etn_workflow_published",
        "The recorded server had workflows of the recordings before it."),
    Row("etn_(krita_sequence|model_info)", "/model_info", r"body: [+-] .*\.(safetensors|ckpt|pt)"
        r"|body\._meta\.(count|total): .*",
        "The models are the cloud's."),
    Row("etn_model_info", "/loras", r"body\.Hyper-SDXL.*",
        "What a model is is guessed from its name; the recorded file was broken."),
    Row("etn_(model_info|upload)", "", r"body\.error: (Invalid folder path, must be one of) .* → "
        r"\1 .*",
        "The model folders are the cloud's."),
    Row("etn_upload", "PUT", r"status: 20\d → 403|body: (\+ error|- status)",
        "The cloud takes no models from here."),
    Row("etn_upload", "LoraLoader", r"body\..*",
        "The cloud takes no models from here, and the words in the catalog are its own."),
    Row("etn_krita_sequence", "system_stats", r"body\.system: \+ (comfy_package_versions"
        r"|deploy_environment)|body\.devices\[\]\.index: null → int",
        "Newest: more about the system; the recorded server had no GPU."),

    # --- node packs: the answers are those of a ComfyUI without the pack
    Row("http_custom_routes", "(GET|HEAD) |raw", r"status: .*|reason: .*|header .*|body: .*",
        "The cloud has no routes of node packs: 404."),
    Row("http_custom_routes", "(POST|PUT|DELETE|PATCH) ", r"status: .*|header .*|body: .*",
        "The cloud has no routes of node packs: 405."),
    Row("ws_custom_node_socket", "ws_open", r"status: 101 → 404",
        "The cloud has no routes of node packs: 404."),

    # --- the machine
    Row("internal", "/internal/folder_paths", r"body.*",
        "The model folders are the cloud's."),
    Row("internal", "/internal/files", r"body: \d+ items → \d+ items",
        "The recorded server had the files of all recordings before it."),
    Row("internal_logs_subscribe", "ws a", r"messages: - 2 logs",
        "The lines are the proxy's own, and the replay has no log."),
    Row("view_full", "gzip accepted", r"header .*|text: .*",
        "A packed file beside a file is a file of its own."),
    Row("info_small", "system_stats", r"body\.devices\[\]\.index: null → int",
        "The recorded server had no GPU."),
    Row("info_small", "users", r"body\.migrated: false → true",
        "The recorded server had been started for the first time."),
    Row("small_upload_limit", "features|ws a", r"(body|feature_flags)\.max_upload_size: "
        r"float → int",
        "The limit is announced in whole bytes."),
    Row("http_api_twins", "view_metadata", r"status: 200 → 404|header .*|body: .*",
        "The model files are on the cloud."),

    # --- the web interface: the packages of the extra `ui`, which these tests do without
    Row("http_api_twins|info_small|http_static", "extensions|workflow_templates",
        r"(body|content|status|reason|header [\w-]+): .*",
        "The recorded server had a node pack with a script and a template; ours has none, and the "
        "scripts of the web interface are those of the installed package."),
    Row("http_api_twins|info_small", "i18n", r"(body|content|status|header [\w-]+): .*",
        "The recorded server had a node pack with translations; the cloud does not show any."),
    Row("http_api_twins|http_static", r"/templates|/docs|/index.html|/assets/",
        r"(status|body|header [\w-]+): .*",
        "The web interface's own files, here not installed."),
    Row("http_static", r"(GET|HEAD) /( |$|\?)", r"(status|body|content|text|header [\w-]+): .*",
        "The web interface's own page, here not installed."),
    Row("http_static", "raw .traversal", r"header .*",
        "A path that leads out is not there, like any other path that is not."),
    Row("http_unknown_routes", r"GET /api/ ", r"header .*",
        "The web interface's own page, here not installed."),
)
# fmt: on

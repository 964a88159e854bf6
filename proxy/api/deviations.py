"""How routes differ from those of a local ComfyUI, and why: one text for each reason."""

from __future__ import annotations

WEBSOCKET = (
    "Who opens the socket only after submitting and sends no feature flags gets no "
    "previews: a ComfyUI sends none unless it is started with --preview-method, and such "
    "clients take every picture for a result. `extra_data.preview_method` `none` is heeded. "
    "A progress text goes to the client that submitted the job alone. Messages of node packs "
    "do not leave the cloud. A newer socket with the same `clientId` keeps its messages when "
    "the older one ends."
)
SUBMISSION = (
    "A number that is not finite is refused with 400, since with it /queue would not be JSON, and "
    "so are targets that are no list. A `prompt_id` that waits or runs already is a 400. What the "
    "cloud refuses (plan, credits) is a 400 that says so."
)
QUEUE = (
    "Several jobs may run at once. Pending jobs stand in the order in which they will run. The "
    "queue survives a restart."
)
INTERRUPT = (
    "Where several jobs run, one without a prompt_id stops those that the same program has "
    "submitted (same token, address and User-Agent, or the client_id in the body), or else the "
    "one that runs longest; never all. A node that pays no heed is stopped too: the cloud does "
    "not wait for it."
)
HISTORY = (
    "It survives a restart. A list that was wrapped in `__value__` stays wrapped. Nodes that the "
    "cloud had cached have their files under names of this job: whose run filled the cache is not "
    "told."
)
FORGETTING = (
    "The jobs stay in the history of the Comfy Cloud account: it would delete their files"
    " with them."
)
ENTRY = "Filled before execution_success is sent, not after it."
VIEW = (
    "Below /api and with X-API-Key it redirects to /view, as programs written for the cloud "
    "insist. "
    "A picture of more than 67,108,864 pixels is not converted for `preview` and `channel`: 400. "
    "The workflow in a PNG or WebP has the client's names of files; in videos and audio it has the "
    "cloud's."
)
UPLOADS = (
    "Comfy Cloud's limits hold: 50 MiB (413), and pictures of 16,384 pixels along an edge and "
    "67,108,864 in all (400). A mask of another size than its picture is a 400, not a 500."
)
PACKED = "Packed with zstd or gzip for who asks for it, with an entity tag: it is large."
NO_PATHS = "Folders have names instead of paths: they are on the cloud."
NO_TIMES = "Times and sizes are 0: the cloud does not tell them."
NO_METADATA = "Always 404: the model files are on the cloud, which does not show what is in them."
MACHINE = (
    "Versions are those of the ComfyUI that is followed, the GPU stands for the cloud's "
    "and its memory is never in use: the cloud shows neither."
)
FEATURES = (
    "`max_upload_size` is in whole bytes and at most the 50 MiB that Comfy Cloud takes. "
    "`assets` is false."
)
FREE = "Nothing is freed: the cloud minds its own memory."
USERS = "Members, where there are any, are told by their tokens, not by `--multi-user`."
EXTENSIONS = "Those of the web interface alone: the cloud's call routes that only the cloud has."
TRANSLATIONS = "Always empty: the cloud does not show the translations of its node packs."
TEMPLATES = "Always empty: the cloud shows no templates of node packs."
LOG = "The proxy's own lines, and of them those about the member who asks."
PICTURES = "404 where the cloud has no picture."
WITHOUT_PACKAGES = (
    "Without the packages of the web interface `/` is a page of our own and the rest 404."
)
FOR_WATCHERS = "Not in ComfyUI: for whoever watches over the process."
FOR_BROWSERS = "Not in ComfyUI: with members, browsers sign in by a token."
FOR_ADMINS = "Not in ComfyUI: for admins, and for members with what is their own."
THE_CLOUDS = "Not in ComfyUI: for programs that were written for Comfy Cloud."
OF_VIDEO_HELPER = (
    "Not in ComfyUI: other names that the cloud has for `/view`, as VideoHelperSuite "
    "does. Nothing is transcoded."
)
USERDATA = (
    "With the setting userdata = cloud these are the account's own. Such a file has no range, no "
    "tag and no time of its making: the cloud tells none."
)
EMPTY_WITHOUT_CLOUD = "Empty while the cloud does not give it: clients do without."
NO_ASSETS = (
    "Always 503 SERVICE_DISABLED, and `assets` is false in the features, as in a ComfyUI without "
    "--enable-assets: of a file that is still in the cloud nobody here knows the hash and the size "
    "that these routes promise."
)

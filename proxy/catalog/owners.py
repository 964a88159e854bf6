"""The node classes of several accounts in one catalog, and which account has what.

Accounts of one cloud differ in the models that their owners have imported, and in the node classes
of environments of their own. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from proxy.translate import codec
from proxy.translate.file_inputs import file_inputs
from proxy.translate.reading import field_of
from proxy.translate.shapes import choices_of

#: The accounts that have a class (under `""`, `""`) or a choice of one of its inputs, where these
#: are not all accounts: by class, input and choice.
Owners: TypeAlias = dict[str, dict[str, dict[str, list[str]]]]

#: The name under which the copy on the disk has the owners beside the classes.
_KEY = "comfy_cloud_proxy"

#: Where core loaders list the models of a folder; an import is in the list of its folder.
LOADERS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "checkpoints": (("CheckpointLoaderSimple", "ckpt_name"),),
    "clip_vision": (("CLIPVisionLoader", "clip_name"),),
    "controlnet": (("ControlNetLoader", "control_net_name"),),
    "diffusion_models": (("UNETLoader", "unet_name"),),
    "gligen": (("GLIGENLoader", "gligen_name"),),
    "hypernetworks": (("HypernetworkLoader", "hypernetwork_name"),),
    "loras": (("LoraLoader", "lora_name"), ("LoraLoaderModelOnly", "lora_name")),
    "style_models": (("StyleModelLoader", "style_model_name"),),
    "text_encoders": (("CLIPLoader", "clip_name"),),
    "upscale_models": (("UpscaleModelLoader", "model_name"),),
    "vae": (("VAELoader", "vae_name"),),
}

#: Choices of these loaders that are no files.
_NO_FILES = frozenset({"pixel_space", "taesd", "taesdxl", "taesd3", "taef1"})


def joined(classes: Mapping[str, Any], owners: Owners) -> dict[str, Any]:
    """Return the classes with their owners in one object."""
    return {**classes, _KEY: owners} if owners else dict(classes)


def split_owners(body: bytes) -> tuple[dict[str, Any], Owners]:
    """Return the classes and their owners. Raises `ValueError` when there are no classes."""
    classes = codec.loads(body)
    if not isinstance(classes, dict) or not classes:
        raise ValueError("object_info is not an object of node classes")
    return classes, classes.pop(_KEY, {})


class Merging:
    """Merges the catalogs of accounts, one after the other; it may begin with the merged `classes`
    and `owners` of some, `names`."""

    def __init__(
        self,
        classes: dict[str, Any] | None = None,
        owners: Owners | None = None,
        names: Iterable[str] = (),
    ) -> None:
        self.classes: dict[str, Any] = {} if classes is None else classes
        self.owners: Owners = {} if owners is None else owners
        self._names: list[str] = list(names)

    def add(self, account: str, classes: Mapping[str, Any]) -> None:
        """Add the catalog of an account."""
        previous = list(self._names)
        for name, info in classes.items():
            if name not in self.classes:
                self.classes[name] = info
                if previous:
                    self._own(name, "", "", [account])
            else:
                self._merge(account, previous, name, info)
        for name in self.classes.keys() - classes.keys():
            self._own(name, "", "", self._owners(name, "", "") or previous)
        self._names.append(account)

    def keep(self, account: str, owners: Owners) -> None:
        """Add an account without an answer, by what `owners` of the last merge say of it."""
        for name, input_, choice, names in _choices_in(owners):
            if account in names and name in self.classes:
                self._add_choice(name, input_, choice, account)
        self._names.append(account)

    def _merge(self, account: str, previous: list[str], name: str, info: Any) -> None:
        if (known := self._owners(name, "", "")) is not None:
            self._own(name, "", "", [*known, account])
        theirs = dict(choices_of(info))
        files = set(file_inputs(name, info))
        for input_, options in choices_of(self.classes[name]):
            other = theirs.get(input_)
            if other is None or other == options:
                continue
            mine, its = set(map(_choice_text, options)), set(map(_choice_text, other))
            if input_ in files:  # a member may have files of the same names
                options += [choice for choice in other if _choice_text(choice) not in mine]
                continue
            for choice in mine - its:
                if self._owners(name, input_, choice) is None:
                    self._own(name, input_, choice, previous)
            for choice in mine & its:
                if (known := self._owners(name, input_, choice)) is not None:
                    self._own(name, input_, choice, [*known, account])
            for choice in other:
                if _choice_text(choice) not in mine:
                    options.append(choice)
                    self._own(name, input_, _choice_text(choice), [account])
            if all(isinstance(option, str) for option in options):
                options.sort()

    def _add_choice(self, name: str, input_: str, choice: str, account: str) -> None:
        for known, options in choices_of(self.classes[name]):
            if known == input_:
                if choice not in options:
                    options.append(choice)
                    self._own(name, input_, choice, [account])
                elif (names := self._owners(name, input_, choice)) is not None:
                    self._own(name, input_, choice, [*names, account])

    def _owners(self, name: str, input_: str, choice: str) -> list[str] | None:
        return self.owners.get(name, {}).get(input_, {}).get(choice)

    def _own(self, name: str, input_: str, choice: str, accounts: list[str]) -> None:
        self.owners.setdefault(name, {}).setdefault(input_, {})[choice] = list(accounts)


def _choice_text(choice: object) -> str:
    return choice if isinstance(choice, str) else codec.dumps(choice)


def hidden_from(owners: Owners, accounts: frozenset[str]) -> Owners:
    """Return what none of these accounts has."""
    found: Owners = {}
    for name, input_, choice, names in _choices_in(owners):
        if accounts.isdisjoint(names):
            found.setdefault(name, {}).setdefault(input_, {})[choice] = names
    return found


def _choices_in(owners: Owners) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield each choice with its class, its input and the names of the accounts that have it."""
    for name, inputs in owners.items():
        for input_, choices in inputs.items():
            for choice, names in choices.items():
                yield name, input_, choice, names


def without(info: Mapping[str, Any], hidden: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a class without the choices that are hidden; it shares nothing that is changed."""
    copied: dict[str, Any] = codec.loads(codec.dump_bytes(info))
    for name, offered in choices_of(copied):
        if name in hidden:
            offered[:] = [choice for choice in offered if _choice_text(choice) not in hidden[name]]
    return copied


class Needs(NamedTuple):
    """What a graph names that not every account has: the accounts that have all of it, and the
    first of the names."""

    accounts: frozenset[str]
    name: str


def needs_of(graph: Mapping[str, Any], owners: Owners) -> Needs | None:
    """Return what a graph needs of its account, `None` if every account has everything."""
    found: frozenset[str] | None = None
    first = ""
    for node in graph.values():
        class_type = field_of(node, "class_type")
        inputs = owners.get(class_type) if isinstance(class_type, str) else None
        for what, names in _needs(str(class_type), node.get("inputs"), inputs or {}):
            found = frozenset(names) if found is None else found & frozenset(names)
            first = first or what
    return None if found is None else Needs(found, first)


def _needs(
    class_type: str, given: object, inputs: Mapping[str, Mapping[str, list[str]]]
) -> Iterator[tuple[str, Iterable[str]]]:
    if (names := inputs.get("", {}).get("")) is not None:
        yield class_type, names
    for name, choices in inputs.items():
        value = given.get(name) if isinstance(given, Mapping) else None
        if isinstance(value, str) and (names := choices.get(value)) is not None:
            yield value, names


def models_in(classes: Mapping[str, Any], folder: str) -> list[str]:
    """Return the models that the core loaders list for a folder."""
    found: dict[str, None] = {}
    for name, wanted in LOADERS.get(folder, ()):
        for input_, options in choices_of(classes.get(name)):
            if input_ == wanted:
                found.update(dict.fromkeys(name for name in options if isinstance(name, str)))
    return [name for name in found if name not in _NO_FILES]

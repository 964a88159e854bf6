"""What flows along the links of a graph.

A picture is an RGB `Image`, or an RGBA one behind `JoinImageWithAlpha`, that nobody changes in
place: batches share them freely.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from PIL import Image

#: The most pixels that a batch may have; beyond it a node fails instead of eating the memory.
MAX_PIXELS = 1 << 26


def check_size(width: int, height: int, count: int = 1) -> None:
    """Check the size of a batch. Raises `ValueError` when it would be empty or larger than
    `MAX_PIXELS`."""
    if width < 1 or height < 1 or count < 1:
        raise ValueError(f"{count} pictures of {width}x{height} have no pixels")
    if width * height * count > MAX_PIXELS:
        raise ValueError(
            f"{count} pictures of {width}x{height} are more than the simulator makes"
            f" ({MAX_PIXELS} pixels); ask for fewer or smaller ones"
        )


@dataclass(frozen=True, slots=True)
class Images:
    """An IMAGE: a batch of RGB pictures."""

    pictures: tuple[Image.Image, ...]

    def __str__(self) -> str:
        return f"Images({_sizes(self.pictures)})"


@dataclass(frozen=True, slots=True)
class Masks:
    """A MASK: a batch of "L" pictures, white where the mask is 1."""

    pictures: tuple[Image.Image, ...]

    def __str__(self) -> str:
        return f"Masks({_sizes(self.pictures)})"


@dataclass(frozen=True, slots=True)
class Latent:
    """A LATENT, kept as the pictures that it will decode to; `noise` says how much is left.

    `masks` are "L" pictures of any size, white where samplers may paint; without one, everywhere.
    """

    pictures: tuple[Image.Image, ...]
    noise: float = 0.0
    seed: int = 0
    masks: tuple[Image.Image, ...] = ()

    def __str__(self) -> str:
        return f"Latent({_sizes(self.pictures)}, noise={self.noise:g})"


@dataclass(frozen=True, slots=True)
class Conditioning:
    """A CONDITIONING: what the picture is to show."""

    texts: tuple[str, ...]

    def __str__(self) -> str:
        return f"Conditioning({', '.join(map(repr, self.texts))})"


@dataclass(frozen=True, slots=True)
class Weights:
    """A MODEL, CLIP, VAE or the like: the names of the files and settings it was made of."""

    kind: str
    names: tuple[str, ...]

    def with_name(self, name: str) -> Weights:
        """Return the weights with one more part, for example a LoRA."""
        return replace(self, names=(*self.names, name))

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(self.names)})"


@dataclass(frozen=True, slots=True)
class Audio:
    """An AUDIO: 16-bit little-endian samples, the channels interleaved."""

    samples: bytes = field(repr=False)
    rate: int = 44100
    channels: int = 2

    @property
    def frames(self) -> int:
        """The number of samples of each channel."""
        return len(self.samples) // (2 * self.channels)

    def __str__(self) -> str:
        return f"Audio({self.frames / self.rate:.3f} s, {self.channels} x {self.rate} Hz)"


@dataclass(frozen=True, slots=True)
class Video:
    """A VIDEO: pictures at a constant rate."""

    pictures: tuple[Image.Image, ...]
    fps: float
    audio: Audio | None = None

    def __str__(self) -> str:
        return f"Video({_sizes(self.pictures)}, {self.fps:g} fps)"


def _sizes(pictures: tuple[Image.Image, ...]) -> str:
    if not pictures:
        return "none"
    width, height = pictures[0].size
    return f"{len(pictures)} x {width}x{height}"

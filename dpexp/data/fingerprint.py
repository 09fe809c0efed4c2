"""A digest of training data, so that a run cannot go on with other data than it began with.

It is computed from the images outside the mechanism: whoever knows all samples but one can test a
guess of the last one by it. So it belongs with `unsafe/`, and is not for release.
"""

import hashlib
from pathlib import Path

from torch import Tensor

from dpexp.data.images import EncodedImages, Images, StoredImages
from dpexp.data.splits import Split

CHUNK = 4096  # images hashed at once
SAMPLED = 64  # images read where they are made up as they are asked for


def fingerprint(split: Split) -> str:
    """Return 32 hexadecimal digits that differ where labels, images or their order do.

    What it does not read it does not notice: images in files of their own count by name and size,
    for reading a million of them would take hours, and made-up ones by the first of them.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(split.labels.numpy().tobytes())
    for start in range(0, len(split), CHUNK):
        for part in _content(split.images, split.rows[start : start + CHUNK], start):
            digest.update(part)
    return digest.hexdigest()


def _content(images: Images, rows: Tensor, start: int) -> list[bytes]:
    match images:
        case StoredImages():
            return [images.pixels[rows].contiguous().numpy().tobytes()]
        case EncodedImages():
            return [_encoded(images.encoded(row)) for row in rows.tolist()]
        case _ if start == 0:
            read = images.read(rows[:SAMPLED], image_size=8, channels=1)
            return [read.numpy().tobytes()]
    return []


def _encoded(image: Path | bytes | None) -> bytes:
    if isinstance(image, Path):
        return f"{image.parent.name}/{image.name}:{image.stat().st_size}\n".encode()
    content = image or b""
    return b"%d:%b" % (len(content), content)

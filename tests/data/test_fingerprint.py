"""The digest of training data: equal for equal data, and moved by any change."""

from dataclasses import replace

import pytest
import torch

from dpexp.data import fingerprint as module
from dpexp.data.fingerprint import fingerprint
from dpexp.data.images import EncodedImages, StoredImages
from dpexp.data.splits import Input, Split

FORM = Input(image_size=4, channels=1, mean=(0.5,), std=(0.5,))


def stored(change=lambda pixels, labels: None):
    pixels = torch.arange(160, dtype=torch.uint8).view(10, 1, 4, 4).clone()
    labels = torch.arange(10) % 3
    change(pixels, labels)
    return Split(StoredImages(pixels, labels, str), torch.arange(10), FORM)


def one_pixel(pixels, labels):
    pixels[9, 0, 3, 3] += 1


def one_label(pixels, labels):
    labels[9] += 1


def two_swapped(pixels, labels):
    pixels[[0, 3]] = pixels[[3, 0]]


@pytest.mark.parametrize("change", [one_pixel, one_label, two_swapped])
def test_any_change_of_stored_images_moves_it(change):
    assert fingerprint(stored()) == fingerprint(stored())
    assert fingerprint(stored(change)) != fingerprint(stored())


def test_which_rows_train_moves_it():
    split = stored()
    assert fingerprint(replace(split, rows=torch.arange(9))) != fingerprint(split)


def test_chunks_do_not_matter(monkeypatch):
    whole = fingerprint(stored())
    monkeypatch.setattr(module, "CHUNK", 3)
    assert fingerprint(stored()) == whole


def encoded(contents):
    images = EncodedImages(contents.__getitem__, torch.zeros(2, dtype=torch.int64), str)
    return Split(images, torch.arange(2), FORM)


def test_encoded_images_count_by_their_bytes_each_apart():
    one = fingerprint(encoded([b"ab", b"c"]))
    assert one == fingerprint(encoded([b"ab", b"c"]))
    assert one != fingerprint(encoded([b"a", b"bc"]))
    assert one != fingerprint(encoded([b"ab", None]))


def test_files_count_by_name_and_size_wherever_they_lie(tmp_path):
    def files(root, content):
        paths = [root / "cat" / "1.png", root / "cat" / "2.png"]
        paths[0].parent.mkdir(parents=True)
        for path in paths:
            path.write_bytes(content)
        return fingerprint(encoded(paths))

    one = files(tmp_path / "here", b"123")
    assert one == files(tmp_path / "there", b"123")
    assert one != files(tmp_path / "longer", b"1234")


def test_made_up_images_count_by_the_first_of_them():
    class MadeUp:
        labels = torch.zeros(5, dtype=torch.int64)
        place = staticmethod(str)

        def __init__(self, value):
            self.value = value

        def read(self, rows, *, image_size, channels):
            return torch.full((len(rows), channels, image_size, image_size), self.value)

    def of(value):
        return fingerprint(Split(MadeUp(value), torch.arange(5), FORM))

    assert of(0.5) == of(0.5) != of(0.25)

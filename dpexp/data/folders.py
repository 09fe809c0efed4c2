"""A user's own images, in one folder a class."""

from pathlib import Path

import torch

from dpexp.config import DatasetConfig
from dpexp.data.images import EncodedImages, Images, Source, store_if_small
from dpexp.errors import DataError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_NAMES = ("test", "validation", "val", "valid")  # the first that is there is tested on
LAYOUTS = {
    "imagefolder": "train/<class>/<image> and test/<class>/<image>",
    "parquet": "train*.parquet and test*.parquet",
}


def existing_root(config: DatasetConfig) -> Path:
    """Return the folder of a data set that the user brings.

    Raises:
        DataError: If none is given, or it is not a folder.
    """
    if config.root is None:
        raise DataError(
            f"dataset.root is not given: dataset={config.name} reads your own files; "
            f"set dataset.root=<folder>"
        )
    root = Path(config.root).expanduser()
    if not root.is_dir():
        found = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(
            f"dataset.root={config.root} {found} ({root.resolve()}); there is nothing to train on; "
            f"give the folder that holds {LAYOUTS[config.name]}"
        )
    return root


def folder_classes(root: Path) -> tuple[str, ...]:
    """Return the class names of an image folder: the folders in `root`/train, sorted.

    Raises:
        DataError: If there are none.
    """
    train = root / "train"
    if not train.is_dir():
        raise DataError(
            f"{root}: no folder train in it, so training and test images cannot be told apart; "
            f"the layout is {LAYOUTS['imagefolder']}, and class folders belong one level down"
        )
    names = tuple(sorted(path.name for path in train.iterdir() if _is_visible_folder(path)))
    if not names:
        raise DataError(
            f"{train}: no class folders in it, so there is nothing to train on; "
            f"the layout is {LAYOUTS['imagefolder']}"
        )
    return names


def open_imagefolder(config: DatasetConfig) -> Source:
    """Return the images under root/train and root/test (or root/val), one folder a class.

    Raises:
        DataError: If a part or a class is missing or empty, or a small image unreadable.
    """
    root = existing_root(config)
    names = folder_classes(root)
    test = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    if test is None:
        raise DataError(
            f"{root}: none of the folders {', '.join(TEST_NAMES)} in it, so there is nothing to "
            f"measure accuracy on; the layout is {LAYOUTS['imagefolder']}"
        )
    notes = () if test.name == "test" else (f"test images are those of {test}",)
    return Source(_folder(root / "train", names), _folder(test, names), names, notes)


def _is_visible_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _folder(folder: Path, class_names: tuple[str, ...]) -> Images:
    """Return the images of one part."""
    unknown = {p.name for p in folder.iterdir() if _is_visible_folder(p)} - set(class_names)
    if unknown:
        raise DataError(
            f"{folder / min(unknown)}: no class of that name among the training images, so its "
            f"label is unknown; classes are {', '.join(class_names[:10])}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        files = sorted(
            path for path in (folder / name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES
        )
        if not files and folder.name == "train":
            raise DataError(
                f"{folder / name}: no images in it ({', '.join(IMAGE_SUFFIXES)}), so the "
                f"class could not be learnt; add images or remove the folder"
            )
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise DataError(f"{folder}: no images in it; the layout is {LAYOUTS['imagefolder']}")
    images = EncodedImages(paths.__getitem__, torch.tensor(labels), lambda row: str(paths[row]))
    return store_if_small(images)

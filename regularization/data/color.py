"""Conversion of images of all modes to upright sRGB with 8 bits per channel."""

from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# TIFF tags, and values of these tags.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """The image as sRGB, or as RGBA if parts are transparent, rotated according to its EXIF data.

    Raises:
        ValueError: When the grey values of black and white are not defined.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)):
        raise ValueError("signed values are not supported: the values of black and white are not defined")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = _to_eight_bits(image, tags)
    if image.mode in ("F", "I"):
        raise ValueError("grey values of 32 bits are not supported: the value of white is not defined")
    image = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile")
    has_transparency = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    if has_transparency or image.mode == "P":
        image = image.convert("RGBA" if has_transparency else "RGB")
    if profile and (transform := _transform_to_srgb(profile, image.mode)) is not None:
        image = transform.apply(image)
    return image.convert("RGBA" if has_transparency else "RGB")


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA image as RGB on a white background; an RGB image as it is."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _to_eight_bits(image: Image.Image, tags: Any) -> Image.Image:
    """Reduces grey values of 9 to 16 bits to 8."""
    bits = int(np.max(tags.get(_BITS_PER_SAMPLE, 16)))
    grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    # Pillow inverts such images if they have 8 bits, but not if they have 16.
    reduced = Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey)
    reduced.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return reduced


@lru_cache(16)
def _transform_to_srgb(profile: bytes, mode: str) -> Any:
    """The transform from a colour profile to sRGB for images of ``mode``; None if none is needed or possible."""
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        # Profiles of sRGB, which most images have, differ by rounding only.
        if "sRGB" in ImageCms.getProfileDescription(source):
            return None
        target = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(source, target, mode, "RGBA" if mode == "RGBA" else "RGB")
    except Exception:  # LittleCMS is missing, or the profile is damaged or belongs to another image mode
        return None

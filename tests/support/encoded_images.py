"""Images in every format and mode that are trained on, with EXIF and sub-IFDs, and damaged ones made of them."""

import io
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

ORIENTATION, SUB_IFD, EXPOSURE, X_RESOLUTION = 0x0112, 0x8769, 0x829A, 282


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def exif(turn: int = 6) -> Image.Exif:
    """A turn, a rational number, and a sub-IFD."""
    found = Image.Exif()
    found[ORIENTATION], found[X_RESOLUTION] = turn, 72.0
    found.get_ifd(SUB_IFD)[EXPOSURE] = 0.5
    return found


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def every_kind(size: int = 16) -> dict[str, bytes]:
    """An image of noise for each format and mode, by its file name. Those that begin with `grey` have no colours."""
    colour, grey = Image.fromarray(noise(size, size, 3)), Image.fromarray(noise(size, size, seed=1))
    alpha = Image.fromarray(noise(size, size, seed=2))
    deep = Image.fromarray(noise(size, size, seed=3).astype(np.uint16) * 257)
    palette, clear = colour.quantize(16), colour.quantize(16)
    clear.info["transparency"] = bytes(range(16))  # which Pillow warns of where it is converted
    motorola = Image.frombytes("I;16B", (size, size), np.asarray(deep).astype(">u2").tobytes())
    rgba, la = colour.copy(), grey.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    found = {
        "rgb.png": encoded(colour, "PNG", exif=exif()),
        "rgba.png": encoded(rgba, "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "clear.png": encoded(clear, "PNG", transparency=bytes(range(16))),
        "grey_la.png": encoded(la, "PNG"),
        "grey.png": encoded(grey, "PNG"),
        "grey_key.png": encoded(grey, "PNG", transparency=7),
        "grey_palette.png": encoded(grey.convert("P"), "PNG"),
        "grey_16.png": encoded(deep, "PNG", exif=exif(8)),
        "grey_1.png": encoded(grey.convert("1"), "PNG"),
        "rgb.jpg": encoded(colour, "JPEG", exif=exif(), quality=98, subsampling=0),
        "grey.jpeg": encoded(grey, "JPEG", exif=exif(3), quality=98),
        "cmyk.jpg": encoded(colour.convert("CMYK"), "JPEG", quality=98, subsampling=0),
        "rgb.webp": encoded(colour, "WEBP", exif=exif(), lossless=True),
        "rgba.webp": encoded(rgba, "WEBP", lossless=True),
        "palette.gif": encoded(palette, "GIF"),
        "frames.gif": encoded(palette, "GIF", save_all=True, append_images=[grey.convert("P")]),
        "grey.gif": encoded(grey, "GIF"),
        "rgb.bmp": encoded(colour, "BMP"),
        "grey.bmp": encoded(grey, "BMP"),
        "rgb.ppm": encoded(colour, "PPM"),
        "grey.pgm": encoded(grey, "PPM"),
        "grey_16.pgm": b"P5 %d %d 65535\n" % (size, size) + np.asarray(deep).astype(">u2").tobytes(),
        "grey_1.pbm": encoded(grey.convert("1"), "PPM"),
        "grey_16.tif": encoded(deep, "TIFF"),
        "grey_16_motorola.tif": encoded(motorola, "TIFF"),
    }
    for name, options in {"raw": {}, "lzw": {"compression": "tiff_lzw"}}.items():
        found[f"rgb_{name}.tif"] = encoded(colour, "TIFF", exif=exif(), **options)
        found[f"rgba_{name}.tif"] = encoded(rgba, "TIFF", **options)
        found[f"cmyk_{name}.tiff"] = encoded(colour.convert("CMYK"), "TIFF", **options)
        found[f"palette_{name}.tif"] = encoded(palette, "TIFF", **options)
    return found


def mutations(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Damaged images with EXIF and its sub-IFD: half of them in their EXIF, most others in their headers."""
    rng = np.random.default_rng(seed)
    kinds = ("rgb.png", "rgb.jpg", "rgb.webp", "rgb_raw.tif", "rgb_lzw.tif", "palette.gif", "clear.png", "grey_16.png")
    whole = {name: data for name, data in every_kind(24).items() if name in kinds}
    places = {name: max(data.find(b"II*\0"), data.find(b"MM\0*"), 0) for name, data in whole.items()}
    for number in range(count):
        name = kinds[number % len(kinds)]
        data, first, last = bytearray(whole[name]), 0, 400
        where = rng.random()
        if where < 0.5 and places[name]:
            first, last = places[name], places[name] + 120
        elif where > 0.8:
            last = len(data)
        for _ in range(int(rng.choice((1, 1, 2, 4)))):
            damage(data, int(rng.integers(first, min(last, len(data)))), rng)
        if rng.random() < 0.1:
            del data[int(rng.integers(len(data))) :]
        yield f"{number}-{name}", with_checksums(bytes(data)) if name.endswith("png") else bytes(data)


def with_checksums(png: bytes) -> bytes:
    """A damaged PNG whose chunks have the right checksums, without which nobody looks into them."""
    found, place = bytearray(png), 8
    while place + 12 <= len(png):
        end = place + 8 + int.from_bytes(png[place : place + 4], "big")
        found[end : end + 4] = zlib.crc32(png[place + 4 : end]).to_bytes(4, "big")[: max(len(png) - end, 0)]
        place = end + 4
    return bytes(found)


def damage(data: bytearray, place: int, rng: np.random.Generator) -> None:
    """Changes some bytes at a place, two times in three without moving what follows."""
    how = int(rng.integers(6))
    if how == 0:
        data[place] = int(rng.integers(256))
    elif how == 1:
        data[place] ^= 1 << int(rng.integers(8))
    elif how == 2:  # a small number, as the types of EXIF's entries are
        data[place] = int(rng.integers(14))
    elif how == 3:  # numbers at the ends of their ranges, of either byte order
        ends = (b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff" * 4)
        data[place : place + 4] = ends[int(rng.integers(4))][: len(data) - place]
    elif how == 4 and len(data) > 100:
        del data[place : place + int(rng.integers(1, 9))]
    else:
        data[place:place] = bytes(data[place : place + int(rng.integers(1, 9))])

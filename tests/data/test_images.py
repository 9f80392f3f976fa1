import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from segwright.data.images import UnreadableFileError, read_image, read_stored_mask


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options) -> Path:
    PillowImage.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_give_the_stored_colors(tmp_path, pixels, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", pixels, **options)

    assert np.array_equal(read_image(path), pixels)


def test_jpeg_is_read_as_pillow_reads_it(tmp_path, pixels):
    path = save(tmp_path / "a.jpg", pixels)

    assert np.array_equal(read_image(path), np.array(PillowImage.open(path)))


def test_gray_has_one_channel(tmp_path, pixels):
    assert read_image(save(tmp_path / "a.png", pixels[..., 0])).shape == (12, 10, 1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_deep_png_stays_uint16(tmp_path, channels):
    stored = np.random.default_rng(0).integers(0, 65535, (6, 5, channels), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    expected = stored[..., [2, 1, 0, 3][:channels]] if channels > 1 else stored

    image = read_image(tmp_path / "a.png")

    assert image.dtype == np.uint16
    assert np.array_equal(image, expected)


def test_one_bit_becomes_0_and_255(tmp_path):
    bits = np.eye(8, dtype=bool)
    path = save(tmp_path / "a.png", bits)

    assert np.array_equal(read_image(path)[..., 0], bits * np.uint8(255))


def test_palette_is_expanded_to_its_colors(tmp_path, pixels):
    PillowImage.fromarray(pixels).quantize(8).save(tmp_path / "a.png")

    image = read_image(tmp_path / "a.png")

    assert np.array_equal(image, np.array(PillowImage.open(tmp_path / "a.png").convert("RGB")))


def test_opaque_alpha_is_dropped_and_another_is_kept(tmp_path, pixels):
    opaque = np.dstack([pixels, np.full((12, 10), 255, np.uint8)])
    clear = opaque.copy()
    clear[0, 0, 3] = 7

    assert read_image(save(tmp_path / "opaque.png", opaque)).shape == (12, 10, 3)
    assert np.array_equal(read_image(save(tmp_path / "clear.png", clear)), clear)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_respected_as_pillow_does(tmp_path, pixels, orientation):
    exif = PillowImage.Exif()
    exif[274] = orientation
    path = save(tmp_path / "a.png", pixels, exif=exif)
    from PIL import ImageOps

    expected = np.array(ImageOps.exif_transpose(PillowImage.open(path)))

    assert np.array_equal(read_image(path), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_with_many_channels_is_read_in_both_orders(tmp_path, dtype, planar):
    stored = np.random.default_rng(0).integers(0, 200, (12, 10, 5)).astype(dtype)
    written = stored if planar == "contig" else np.moveaxis(stored, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", written, photometric="minisblack", planarconfig=planar)

    image = read_image(tmp_path / "a.tif")

    assert image.dtype == dtype
    assert np.array_equal(image, stored)


def test_tiff_with_channels_as_pages_is_read(tmp_path):
    stored = np.random.default_rng(0).integers(0, 200, (4, 12, 10), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack")

    assert np.array_equal(read_image(tmp_path / "a.tif"), np.moveaxis(stored, 0, -1))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float64])
def test_other_numbers_become_float32(tmp_path, dtype):
    stored = np.arange(-20, 22).reshape(6, 7).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored)

    image = read_image(tmp_path / "a.tif")

    assert image.dtype == np.float32
    assert np.array_equal(image[..., 0], stored)


def test_fourth_tiff_channel_that_is_not_alpha_is_kept(tmp_path, pixels):
    infrared = np.dstack([pixels, np.full((12, 10), 255, np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", infrared, photometric="rgb", extrasamples=["unspecified"])

    assert read_image(tmp_path / "a.tif").shape == (12, 10, 4)


def test_volume_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((6, 9, 8), np.uint8), imagej=True, metadata={"axes": "ZYX"})

    with pytest.raises(UnreadableFileError, match="stack of shape"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["png", "deep_png", "jpg", "progressive", "bmp", "webp", "tif", "lzw"])
def test_cut_files_are_errors_and_print_nothing(tmp_path, capfd, kind, share):
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), (0, 0), 2)
    buffer = io.BytesIO()
    match kind:
        case "tif" | "lzw":
            tifffile.imwrite(buffer, smooth, compression=None if kind == "tif" else "lzw")
        case "deep_png":
            buffer.write(cv2.imencode(".png", smooth.astype(np.uint16) * 200)[1].tobytes())
        case "progressive":
            PillowImage.fromarray(smooth).save(buffer, "JPEG", progressive=True)
        case _:
            PillowImage.fromarray(smooth).save(buffer, {"jpg": "JPEG"}.get(kind, kind.upper()))
    path = tmp_path / "a.image"
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])

    with pytest.raises(UnreadableFileError, match="cut short"):
        read_image(path)

    assert capfd.readouterr() == ("", "")


def test_png_without_its_last_chunk_is_an_error(tmp_path, pixels):
    path = save(tmp_path / "a.png", pixels)
    path.write_bytes(path.read_bytes()[:-5])

    with pytest.raises(UnreadableFileError, match="cut short"):
        read_image(path)


def test_overwritten_bytes_never_raise_anything_else(tmp_path, pixels):
    rng = np.random.default_rng(1)
    path = save(tmp_path / "a.tif", pixels, compression="tiff_lzw")
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            read_image(path)
        except UnreadableFileError as error:
            assert error.reason  # noqa: PT017 - either outcome is right


def test_empty_foreign_and_missing_files_say_what_to_do(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")

    with pytest.raises(UnreadableFileError, match=r"empty.png: the file is empty \(0 bytes\).*copy or export"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(UnreadableFileError, match="not a PNG, JPEG, TIFF, BMP or WebP image; convert"):
        read_image(tmp_path / "text.png")
    with pytest.raises(UnreadableFileError, match="cannot be opened"):
        read_image(tmp_path / "missing.png")


def test_decompression_bomb_is_refused(tmp_path, pixels, monkeypatch):
    path = save(tmp_path / "a.png", pixels)
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", 10)

    with pytest.raises(UnreadableFileError, match="too large"):
        read_image(path)


def test_error_survives_pickling(tmp_path):
    import pickle

    error = pickle.loads(pickle.dumps(UnreadableFileError(tmp_path, "the reason")))

    assert str(error) == f"{tmp_path}: the reason"


def test_mask_of_a_palette_file_holds_the_indices(tmp_path):
    indices = np.array([[0, 1], [2, 255]], np.uint8)
    image = PillowImage.fromarray(indices, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 756 + [224, 224, 192])
    image.save(tmp_path / "a.png")

    stored, palette = read_stored_mask(tmp_path / "a.png")

    assert np.array_equal(stored, indices)
    assert palette is not None
    assert palette[1] == (128, 0, 0)
    assert palette[255] == (224, 224, 192)


def test_equal_channels_of_a_mask_collapse(tmp_path, pixels):
    stored, palette = read_stored_mask(save(tmp_path / "a.png", np.repeat(pixels[..., :1], 3, axis=2)))

    assert np.array_equal(stored, pixels[..., 0])
    assert palette is None


def test_color_mask_keeps_its_colors_and_loses_opaque_alpha(tmp_path, pixels):
    opaque = np.dstack([pixels, np.full((12, 10), 255, np.uint8)])

    assert np.array_equal(read_stored_mask(save(tmp_path / "a.png", opaque))[0], pixels)


def test_four_bit_gray_mask_holds_the_stored_numbers(tmp_path):
    stored = np.arange(16, dtype=np.uint8).reshape(4, 4)
    # A PNG of 4 bits a pixel, which Pillow cannot write as gray.
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([row[0] << 4 | row[1], row[2] << 4 | row[3]]) for row in stored.tolist())
    header = struct.pack(">IIBBBBB", 4, 4, 4, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)

    assert np.array_equal(read_stored_mask(tmp_path / "a.png")[0], stored)
    assert np.array_equal(read_image(tmp_path / "a.png")[..., 0], stored * 17)


def test_signed_masks_are_read_if_not_negative(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 300], [2, 3]], np.int32))
    tifffile.imwrite(tmp_path / "b.tif", np.array([[0, -1], [2, 3]], np.int32))

    assert read_stored_mask(tmp_path / "a.tif")[0].dtype == np.uint16
    with pytest.raises(UnreadableFileError, match="from -1 to 3"):
        read_stored_mask(tmp_path / "b.tif")


def test_masks_that_are_no_labels_are_refused(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "float.tif", np.ones((4, 4), np.float32))
    tifffile.imwrite(tmp_path / "many.tif", np.zeros((12, 10, 5), np.uint8) + np.arange(5, dtype=np.uint8))
    clear = save(tmp_path / "clear.png", np.dstack([pixels, pixels[..., 0]]))

    with pytest.raises(UnreadableFileError, match="float32 numbers, but labels are whole"):
        read_stored_mask(tmp_path / "float.tif")
    with pytest.raises(UnreadableFileError, match="5 channels"):
        read_stored_mask(tmp_path / "many.tif")
    with pytest.raises(UnreadableFileError, match="partly transparent"):
        read_stored_mask(clear)

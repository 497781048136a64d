"""Models with a latent for every row: autoencoders and probabilistic principal components."""

import contextlib
import gzip
import io

import numpy as np
import pytest

import advi
from models import images, ppca_ard, vae


def idx(array):
    header = np.array([2051, *array.shape], ">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_images(folder, **arrays):
    """Write the files of MNIST."""
    (folder / "mnist").mkdir()
    for name, array in arrays.items():
        path = folder / "mnist" / f"{name}-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(idx(array)))


def run(module, arguments):
    """Return what a model's command prints, and the data and result of every fit it makes."""
    fits, fit, printed = [], module.fit, io.StringIO()

    def keep(data, *rest, **settings):
        fits.append((data, fit(data, *rest, **settings)))
        return fits[-1][1]

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(module, "fit", keep)
        module.main(arguments)
    return printed.getvalue(), fits


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of MNIST, of smaller images."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (num, 6, 4)) for num in (300, 60))
    write_images(tmp_path, train=train, t10k=test)
    return tmp_path


def test_images_are_mnist_where_a_folder_has_it(folder, monkeypatch):
    found = images.load(str(folder))
    assert found.description.startswith("MNIST: 300 images to fit, 60 held out, 6 x 4")
    assert found.train.shape == (300, 24)
    assert found.train.dtype == np.float32
    assert 0 <= found.train.min() < found.train.max() <= 1
    monkeypatch.setenv(images.VARIABLE, str(folder / "mnist"))
    np.testing.assert_array_equal(images.load().train, found.train)


def test_images_are_digits_without_a_folder_and_never_in_place_of_one(tmp_path, monkeypatch):
    monkeypatch.delenv(images.VARIABLE, raising=False)
    assert "digits" in images.load().description
    with pytest.raises(FileNotFoundError, match="found no MNIST; expected train-images"):
        images.load(str(tmp_path))


@pytest.mark.parametrize(
    "spoil", [lambda raw: raw[:-1], lambda raw: b"\1" + raw[1:], lambda _: b""]
)
def test_a_broken_file_of_images_is_refused(folder, spoil):
    path = folder / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(spoil(gzip.decompress(path.read_bytes()))))
    with pytest.raises(ValueError, match="not a whole idx file"):
        images.load(str(folder))


def test_binarisation_rules():
    grey = np.random.default_rng(0).random((500, 40))
    np.testing.assert_allclose(images.binarised(grey, "grey"), grey, rtol=1e-6)
    fixed = images.binarised(grey, "fixed-1603")
    u = np.random.Generator(np.random.PCG64(1603)).random(grey.shape)
    np.testing.assert_array_equal(fixed, u < grey)
    one, other = (images.binarised(grey, "dynamic", seed) for seed in (1, 2))
    assert (one != other).any()
    assert abs(np.mean(one - grey)) < 0.02
    with pytest.raises(ValueError, match="expected one of grey, dynamic, fixed-1603"):
        images.binarised(grey, "static")


def test_dynamic_epochs_draw_every_image_anew():
    grey = np.full((10, 50), 0.5)
    epoch = images.dynamic_epochs(grey, 4)
    first, second = (list(epoch()) for _ in range(2))
    assert [batch["x"].shape for batch in first] == [(4, 50), (4, 50)]
    assert (first[0]["x"] != second[0]["x"]).any()
    again = list(images.dynamic_epochs(grey, 4)())
    np.testing.assert_array_equal(first[0]["x"], again[0]["x"])


BRIGHT = 0.9  # probability of a pixel of one kind of images, and of none of the other


def images_of_two_kinds():
    """500 images to fit and 60 held out, (num, 6, 4), of bytes."""
    rng = np.random.default_rng(0)
    level = round(255 * BRIGHT)
    kinds = (rng.integers(0, 2, (num, 1, 1)) for num in (500, 60))
    return [np.where(kind, level, 255 - level) * np.ones((6, 4)) for kind in kinds]


def test_an_autoencoder_learns_its_images():
    """Two kinds of images: the code tells them apart, and the bound nears their entropy."""
    grey = images_of_two_kinds()[0].reshape(-1, 24) / 255
    x = images.binarised(grey, "fixed-1603")
    fit = vae.fit({"x": x}, 24, 150, num_rows=len(x), num_latents=3, hidden=16)
    elbo = fit.elbo.value / len(x)
    alone = -24 * np.log(2)  # nats an image of pixels that know nothing of each other
    dark = 1 - BRIGHT
    entropy = np.log(2) - 24 * (BRIGHT * np.log(BRIGHT) + dark * np.log(dark))
    assert alone < elbo < -entropy + 0.1
    assert elbo > 0.5 * (alone - entropy)
    assert vae.reconstruct(fit, {"x": x[:5]}).shape == (5, 24)
    assert vae.generate(fit, np.zeros((7, 3))).shape == (7, 24)


@pytest.mark.slow  # short: test_an_autoencoder_learns_its_images
def test_the_command_prints_every_model_and_leaves_a_picture(tmp_path):
    train, test = images_of_two_kinds()
    write_images(tmp_path, train=train, t10k=test)
    sizes = ["--epochs", "30", "--latents", "3", "--hidden", "16"]
    out = tmp_path / "vae.png"
    text, fits = run(vae, ["--data", str(tmp_path), *sizes, "--out", str(out)])
    assert "MNIST: 500 images" in text
    for name in ("VAE ", "IWAE, 10 draws", "VAE, codes in the plane", "conditional VAE"):
        assert name in text
    assert len(fits) == 4
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def ppca_command():
    size = ["--rows", "4000", "--dim", "12", "--subspace", "3", "--codes", "6", "--steps", "1500"]
    return run(ppca_ard, size)


def test_principal_components_find_the_subspace(ppca_command):
    text, _ = ppca_command
    assert "simulated, 4,000 rows around 3 of 12 dimensions" in text
    assert "relevant: 3 of 6; noise sd 0.5" in text or "noise sd 0.49" in text


def test_codes_of_new_rows(ppca_command):
    _, [(_, fit)] = ppca_command
    assert isinstance(fit, advi.Fit)
    new = ppca_ard.data(1, dim=12, subspace=3)
    assert fit.sample(4, data=new)["z"].shape == (4, 1, 6)

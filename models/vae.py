"""A variational autoencoder: one amortised latent a row, the decoder's weights estimated.

The log-joint is an ordinary one: a standard normal prior on the codes and Bernoulli pixels whose
logits a network computes. ``advi.Amortised`` makes another network compute the codes' posterior,
and ``advi.Point`` estimates the decoder. The importance-weighted autoencoder is the same with
another objective, the conditional one the same with more data.

``python -m models.vae`` fits all three to the digits that scikit-learn brings, or to MNIST
(``--data FOLDER``), and leaves a picture.

References
----------
Kingma & Welling (2014), Auto-Encoding Variational Bayes; section 5 and appendix C.
Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders.
Sohn, Lee & Yan (2015), Learning Structured Output Representation using Deep Conditional Generative
Models; Doersch (2016), Tutorial on Variational Autoencoders, section 3: the conditional one.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray
from scipy.special import ndtri

import advi
from models.images import Images, binarised, load

BATCH_SIZE, RATE = 128, 1e-3
MIN_EPOCHS, MIN_STEPS = 10, 3000
LINE = 0.3  # grey of the lines between the images of a picture
Params = dict[str, NDArray[np.float32]]
Rows = dict[str, NDArray[np.float32]]


def layers(sizes: list[int], rng: np.random.Generator) -> Params:
    """Return the weights and biases of dense layers, uniform in +- 1 / sqrt(inputs)."""
    params: Params = {}
    for k, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        bound = inputs**-0.5
        params[f"w{k}"] = rng.uniform(-bound, bound, (inputs, outputs)).astype(np.float32)
        params[f"b{k}"] = rng.uniform(-bound, bound, outputs).astype(np.float32)
    return params


def network(params: Any, x: Array) -> Array:
    """Return dense layers with rectifiers between them."""
    last = len(params) // 2 - 1
    for k in range(last):
        x = jax.nn.relu(x @ params[f"w{k}"] + params[f"b{k}"])
    return x @ params[f"w{last}"] + params[f"b{last}"]


def with_given(x: Array, d: Any) -> Array:
    """Return a network's input: `x`, and what a conditional model is given."""
    return jnp.concatenate([x, d["given"]], axis=-1) if "given" in d else x


def encode(params: Any, row: Any) -> tuple[Array, Array]:
    """Return the mean and the log sd of the code of one image."""
    loc, log_sd = jnp.split(network(params, with_given(row["x"], row)), 2)
    return loc, log_sd


def pixel_logits(z: Any, d: Any) -> Array:
    """Return the log odds of every pixel, (B, P)."""
    return network(z["decoder"], with_given(z["h"], d))


def log_joint(z: Any, d: Any) -> advi.Terms:
    """Return the log-joint density in nats, one row an image."""
    logits = pixel_logits(z, d)
    rows = (d["x"] * logits - jax.nn.softplus(logits)).sum(-1)
    prior = -0.5 * (z["h"] ** 2 + jnp.log(2 * jnp.pi)).sum(-1)
    return advi.Terms(0.0, rows=rows, prior=prior)


def model(
    num_pixels: int, num_latents: int = 20, hidden: int = 400, given: int = 0, seed: int = 0
) -> tuple[advi.Model, dict[str, Any]]:
    """Return the model and its families.

    Parameters
    ----------
    num_pixels, num_latents, hidden
        Pixels of an image, size of its code, and units of either network's hidden layer.
    given
        Numbers that a conditional model is given with every image.
    seed
        Of the networks' first weights.
    """
    rng = np.random.default_rng(seed)
    encoder = layers([num_pixels + given, hidden, 2 * num_latents], rng)
    decoder = layers([num_latents + given, hidden, num_pixels], rng)
    latents = {"h": advi.real(num_latents, local=True), "decoder": advi.tree(decoder)}
    family = {"h": advi.Amortised(encode, encoder), "decoder": advi.Point()}
    return advi.Model(log_joint, latents), family


def fit(
    data: Any,
    num_pixels: int,
    epochs: int,
    *,
    num_rows: int,
    objective: Any = None,
    given: int = 0,
    num_latents: int = 20,
    hidden: int = 400,
) -> advi.Fit:
    """Fit by Adam for a number of epochs.

    Parameters
    ----------
    data
        Rows, or a stream of batches of them.
    num_pixels, num_latents, hidden, given
        As of `model`.
    epochs
        Times that every image is seen.
    num_rows
        Number of images.
    objective
        `advi.Elbo(draws=1)` by default.
    """
    vae, family = model(num_pixels, num_latents, hidden, given)
    streamed = callable(data)
    return advi.fit(
        vae,
        data,
        family=family,
        objective=objective or advi.Elbo(draws=1),
        optimizer=optax.adam(RATE),
        batch_size=BATCH_SIZE,
        num_rows=num_rows if streamed else None,
        max_steps=epochs * (num_rows // BATCH_SIZE),
    )


def upper_half(x: NDArray, shape: tuple[int, int]) -> Rows:
    """Return a conditional model's rows: the lower half of every image, given the upper half."""
    half = shape[0] // 2 * shape[1]
    return {"x": x[:, half:], "given": x[:, :half]}


def reconstruct(fitted: advi.Fit, rows: Rows, key: int = 0) -> NDArray:
    """Return pixel probabilities (N, P) from one code of every row's posterior."""
    z = jax.tree.map(lambda leaf: leaf[0], fitted.sample(1, key, data=rows))
    return np.asarray(jax.nn.sigmoid(pixel_logits(z, rows)))


def generate(fitted: advi.Fit, codes: NDArray, given: NDArray | None = None) -> NDArray:
    """Return pixel probabilities (N, P) for codes (N, K), which may come from the prior."""
    rows = {} if given is None else {"given": jnp.asarray(given)}
    # the decoder is estimated: every draw of it, at any row, is the estimate
    blank = {name: jnp.zeros((1, size)) for name, size in row_sizes(fitted).items()}
    decoder = jax.tree.map(lambda leaf: leaf[0], fitted.sample(1, data=blank)["decoder"])
    z = {"h": jnp.asarray(codes), "decoder": decoder}
    return np.asarray(jax.nn.sigmoid(pixel_logits(z, rows)))


def row_sizes(fitted: advi.Fit) -> dict[str, int]:
    """Return how many numbers each leaf of a row has."""
    return {name: leaf.shape[1] for name, leaf in fitted.posterior.density.data.items()}


def mosaic(tiles: NDArray) -> NDArray:
    """Return images (rows, columns, height, width) side by side as one, with lines between."""
    framed = np.pad(tiles, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=LINE)
    rows, columns, height, width = framed.shape
    return framed.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)


def draw(
    path: Path, images: Images, vae: advi.Fit, plane: advi.Fit, conditional: advi.Fit, rule: Any
) -> None:
    """Write a picture: samples, reconstructions, the grid of a 2-D code, completed halves."""
    from matplotlib.figure import Figure

    rng = np.random.default_rng(0)
    side, shape = 10, images.shape
    some = binarised(images.test[: side * side // 2], rule)
    num_latents = vae.posterior.model.latents["h"].shape[-1]
    samples = generate(vae, rng.standard_normal((side * side, num_latents)))
    rebuilt = np.stack([some, reconstruct(vae, {"x": some})], axis=1).reshape(side * side, -1)
    quantiles = ndtri((np.arange(side) + 0.5) / side)
    grid = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1).reshape(-1, 2)
    halves = upper_half(some[:side], shape)
    codes = conditional.posterior.model.latents["h"].shape[-1]
    completed = [some[:side]] + [
        np.concatenate(
            [
                halves["given"],
                generate(conditional, rng.standard_normal((side, codes)), halves["given"]),
            ],
            axis=1,
        )
        for _ in range(side - 1)
    ]
    panels = {
        "Samples from the prior": samples,
        "Held-out images and reconstructions": rebuilt,
        "Codes in the plane": generate(plane, grid),
        "First row completed, given upper halves": np.concatenate(completed),
    }
    figure = Figure(figsize=(10, 10.5), layout="constrained")
    for axes, (title, tiles) in zip(figure.subplots(2, 2).ravel(), panels.items(), strict=True):
        axes.imshow(mosaic(tiles.reshape(side, side, *shape)), cmap="gray_r", vmin=0, vmax=1)
        axes.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> None:
    """Fit the three models, print what they reach on held-out images, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", metavar="FOLDER", help="with MNIST; default: bundled digits")
    parser.add_argument("--rule", default="fixed-1603", choices=["grey", "fixed-1603"])
    parser.add_argument("--epochs", type=int, help=f"default: {MIN_EPOCHS}, more of few images")
    parser.add_argument("--latents", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=400)
    parser.add_argument("--draws", type=int, default=10, help="importance draws of the IWAE")
    parser.add_argument("--out", type=Path, default=Path("vae.png"), help="where the picture goes")
    args = parser.parse_args(arguments)

    images = load(args.data)
    print(f"data: {images.description}; binarised by the rule {args.rule!r}\n")
    train, test = binarised(images.train, args.rule), binarised(images.test, args.rule)
    num = len(train)
    epochs = args.epochs or max(MIN_EPOCHS, MIN_STEPS // (num // BATCH_SIZE))
    common = {"num_rows": num, "hidden": args.hidden}
    sizes = common | {"num_latents": args.latents}

    def timed(name: str, rows: Rows, held_out: Rows, **settings: Any) -> advi.Fit:
        begin = time.perf_counter()
        fitted = fit(rows, rows["x"].shape[1], epochs, **settings)
        seconds = time.perf_counter() - begin
        elbo = fitted.log_marginal(held_out, draws=1).mean
        evidence = fitted.log_marginal({k: v[:200] for k, v in held_out.items()}).mean
        print(f"{name:<34} {seconds:8.1f}  {elbo.value:8.2f}  {evidence!s:>18}")
        return fitted

    print(f"{epochs} epochs, held-out images      seconds      ELBO     log p(x), 200 images")
    vae = timed("VAE", {"x": train}, {"x": test}, **sizes)
    timed(
        f"IWAE, {args.draws} draws",
        {"x": train},
        {"x": test},
        objective=advi.Iwae(args.draws),
        **sizes,
    )
    plane = timed("VAE, codes in the plane", {"x": train}, {"x": test}, num_latents=2, **common)
    halves, held_out = upper_half(train, images.shape), upper_half(test, images.shape)
    given = halves["given"].shape[1]
    conditional = timed("conditional VAE, lower half", halves, held_out, given=given, **sizes)
    try:
        draw(args.out, images, vae, plane, conditional, args.rule)
    except ImportError:
        print('no picture: it needs Matplotlib, pip install "advi-engine[plots]"')
        return
    print(f"\nwritten: {args.out}")


if __name__ == "__main__":
    main()

"""A variational autoencoder in the engine, against a hand-written loop and NumPyro's SVI.

The same networks (P-400-20), batches of 128 and Adam at 1e-3 for all three. The hand-written loop
is one compiled scan over an epoch, with the divergence from the prior in closed form, as the usual
examples have it; NumPyro's is its own example's compiled loop. Both report the mean loss of the
epoch, as a training loop does; the engine reports that of every step. Seconds an epoch are medians
over epochs that take turns. The held-out ELBO of the engine is printed for grey targets, and for
training on pixels drawn anew for every use, tested on images binarised once (fixed-1603).
"""

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax import Array
from numpyro.infer import SVI, Trace_ELBO

import advi
from advi.inference.stochastic.loop import CHUNK
from benchmarks.common import print_header, print_table, save
from models import vae
from models.images import binarised, dynamic_epochs, load

BATCH, LATENTS, HIDDEN = vae.BATCH_SIZE, 20, 400

Epoch = Callable[[], object]  # takes one epoch's steps, and returns when they are done


def engine(x: np.ndarray, epochs: int) -> list[float]:
    """Return seconds an epoch of the engine, between the callbacks of one fit."""
    model, family = vae.model(x.shape[1], LATENTS, HIDDEN)
    stamps: list[tuple[int, float]] = []
    steps = len(x) // BATCH
    advi.fit(
        model,
        {"x": x},
        family=family,
        objective=advi.Elbo(draws=1),
        optimizer=optax.adam(vae.RATE),
        batch_size=BATCH,
        max_steps=max(epochs * steps, 3 * CHUNK),  # two chunks beside the one that compiles
        callback=lambda progress: stamps.append((progress.step, time.perf_counter())),
    )
    return [
        steps * (later - now) / (after - before)
        for (before, now), (after, later) in itertools.pairwise(stamps)
    ]


def by_hand(x: np.ndarray) -> Epoch:
    """Return an epoch of a loop written for this model alone."""
    optimizer = optax.adam(vae.RATE)
    family = vae.model(x.shape[1], LATENTS, HIDDEN)[1]
    rng = np.random.default_rng(0)
    params = {
        "encoder": jax.tree.map(jnp.asarray, family["h"].params),
        "decoder": jax.tree.map(jnp.asarray, vae.layers([LATENTS, HIDDEN, x.shape[1]], rng)),
    }
    data, steps = jnp.asarray(x), len(x) // BATCH

    def loss(params: Any, batch: Array, key: Array) -> Array:
        loc, log_sd = jnp.split(vae.network(params["encoder"], batch), 2, axis=-1)
        h = loc + jnp.exp(log_sd) * jax.random.normal(key, loc.shape)
        logits = vae.network(params["decoder"], h)
        log_likelihood = (batch * logits - jax.nn.softplus(logits)).sum(-1)
        divergence = 0.5 * (loc**2 + jnp.exp(2 * log_sd) - 1 - 2 * log_sd).sum(-1)
        return (divergence - log_likelihood).mean()

    @jax.jit
    def epoch(params: Any, state: Any, key: Array) -> Any:
        order_key, key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(data))[: steps * BATCH]

        def step(carry: Any, at: Any) -> Any:
            params, state = carry
            rows, key = at
            value, gradients = jax.value_and_grad(loss)(params, data[rows], key)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), value

        parts = order.reshape(steps, BATCH), jax.random.split(key, steps)
        carried, losses = jax.lax.scan(step, (params, state), parts)
        return *carried, losses.mean()

    carried = [params, jax.jit(optimizer.init)(params), jax.random.key(0)]

    def run() -> None:
        carried[2], key = jax.random.split(carried[2])
        carried[:2] = jax.block_until_ready(epoch(carried[0], carried[1], key))[:2]

    return run


def by_numpyro(x: np.ndarray) -> Epoch:
    """Return an epoch of NumPyro's SVI."""
    family = vae.model(x.shape[1], LATENTS, HIDDEN)[1]
    encoder = jax.tree.map(jnp.asarray, family["h"].params)
    rng = np.random.default_rng(0)
    decoder = jax.tree.map(jnp.asarray, vae.layers([LATENTS, HIDDEN, x.shape[1]], rng))
    data, steps = jnp.asarray(x), len(x) // BATCH

    def model(batch: Array) -> None:
        params: Any = numpyro.param("decoder", decoder)
        with numpyro.plate("rows", len(batch)):
            h = numpyro.sample("h", dist.Normal(0, 1).expand([LATENTS]).to_event(1))
            logits = vae.network(params, jnp.asarray(h))
            pixels = dist.Bernoulli(logits=logits, validate_args=False).to_event(1)  # type: ignore[call-arg]
            numpyro.sample("x", pixels, obs=batch)

    def guide(batch: Array) -> None:
        params: Any = numpyro.param("encoder", encoder)
        loc, log_sd = jnp.split(vae.network(params, batch), 2, axis=-1)
        with numpyro.plate("rows", len(batch)):
            numpyro.sample("h", dist.Normal(loc, jnp.exp(log_sd)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(vae.RATE), Trace_ELBO())
    state = svi.init(jax.random.key(0), data[:BATCH])

    @jax.jit
    def epoch(state: Any, key: Array) -> Any:
        order = jax.random.permutation(key, len(data))

        def step(i: Array, carry: Any) -> Any:
            state, total = carry
            rows = jax.lax.dynamic_slice_in_dim(order, i * BATCH, BATCH)
            state, loss = svi.update(state, data[rows])
            return state, total + loss

        state, total = jax.lax.fori_loop(0, steps, step, (state, 0.0))
        return state, total / steps

    carried = [state, jax.random.key(1)]

    def run() -> None:
        carried[1], key = jax.random.split(carried[1])
        carried[0] = jax.block_until_ready(epoch(carried[0], key))[0]

    return run


def speed(x: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Return seconds an epoch of each, in turns; the first epoch of each compiles."""
    epochs = {"hand-written loop": by_hand(x), "NumPyro SVI": by_numpyro(x)}
    for run in epochs.values():
        run()
    engine(x, 1)
    seconds: dict[str, list[float]] = {"advi": [], **{name: [] for name in epochs}}
    for turn in range(rounds):
        names = list(seconds) if turn % 2 == 0 else list(seconds)[::-1]
        for name in names:
            if name == "advi":
                seconds[name].append(float(np.median(engine(x, 1))))
            else:
                begin = time.perf_counter()
                epochs[name]()
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def held_out(data: Any, num: int, test: np.ndarray, epochs: int) -> str:
    """Return the ELBO of held-out images, one draw each, after some epochs of training."""
    fitted = vae.fit(data, test.shape[1], epochs, num_rows=num, num_latents=LATENTS, hidden=HIDDEN)
    return str(fitted.log_marginal({"x": test}, draws=1).mean)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", metavar="FOLDER", help="with MNIST; default: bundled digits")
    parser.add_argument("--rounds", type=int, default=5, help="timed epochs of each")
    parser.add_argument("--epochs", type=int, default=5, help="of training before the ELBO")
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    images = load(args.data)
    print_header(f"A variational autoencoder\n{images.description}")
    seconds = speed(images.train, args.rounds)
    hand = float(np.median(seconds["hand-written loop"]))
    rows = [
        [name, f"{np.median(s):.3f}", f"{np.median(s) / hand:.3f}"] for name, s in seconds.items()
    ]
    print_table([f"{args.rounds} epochs each", "seconds an epoch", "ratio"], rows)

    num = len(images.train)
    elbos = {
        "grey targets": held_out({"x": images.train}, num, images.test, args.epochs),
        "dynamic, tested on fixed-1603": held_out(
            dynamic_epochs(images.train, BATCH),
            num,
            binarised(images.test, "fixed-1603"),
            args.epochs,
        ),
    }
    print(f"\nheld-out ELBO after {args.epochs} epochs, nats an image")
    for name, elbo in elbos.items():
        print(f"{name:<32} {elbo}")

    def draw(axes: Any) -> None:
        axes.boxplot(list(seconds.values()), orientation="horizontal")
        axes.set_yticks(range(1, 1 + len(seconds)), list(seconds))
        axes.set(xlabel="seconds an epoch", xlim=(0, None), title=images.description)

    save("vae", {"seconds": seconds, "held_out": elbos, "data": images.description}, draw, args.out)


if __name__ == "__main__":
    main()

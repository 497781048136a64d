"""What JAX compiles."""

import contextlib

import jax


@contextlib.contextmanager
def compiled():
    """A list of what is compiled meanwhile: seconds of every program."""
    events = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)

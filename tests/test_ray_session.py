"""The session: what is there is used, and only the lines that were named are kept from stderr."""

import os
import subprocess
import sys

import pytest

from raygait import ray_session


@pytest.mark.ray
def test_a_session_that_is_there_is_used_and_left_alone(ray_session: None) -> None:
    import ray

    from raygait.ray_session import start

    before = ray.get_runtime_context().get_job_id()
    with start(num_cpus=1):
        assert ray.get_runtime_context().get_job_id() == before
        assert ray.cluster_resources()["CPU"] == 4
    assert ray.is_initialized()


def test_only_lines_with_a_named_phrase_are_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    with ray_session.stderr_without("nobody asked"):
        sys.stderr.write("from Python\n")
        os.write(2, b"a note that nobody asked for\n")
        subprocess.run(["sh", "-c", "echo from a child >&2"], check=True)
        os.write(2, b"last, without an end of line")
    os.write(2, b"\nafter\n")
    expected = "from Python\nfrom a child\nlast, without an end of line\nafter\n"
    assert capfd.readouterr().err == expected


def test_an_error_passes_through_and_stderr_is_whole_again(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        with ray_session.stderr_without("x"):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    os.write(2, b"x is back\n")
    assert capfd.readouterr().err == "x is back\n"

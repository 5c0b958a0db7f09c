"""`umemma serve` as a process, its port, and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
import requests
from toys.models import call, make_picture, save_model
from toys.serving import start_command

import umemma
from umemma.errors import UserError
from umemma.serving import server
from umemma.serving.app import make_app
from umemma.serving.limits import Limits


@pytest.mark.slow
def test_the_command_answers_until_ctrl_c(tmp_path):
    """With the model of params.yaml, as `umemma predict` takes it; then the port is free again."""
    save_model(tmp_path / "models" / "digits" / "ensemble", "image")
    (tmp_path / "params.yaml").write_text("dataset: digits\nmodalities: [image]\n")
    with start_command(tmp_path) as (process, address):
        assert requests.get(f"{address}/model", timeout=60).json()["classes"]
        response = requests.post(f"{address}/predict", files={"image": b"?"}, timeout=60)
        assert response.status_code == 422
        assert str(tmp_path) not in response.text
        taken = call("serve", str(tmp_path), "--port", address.rpartition(":")[2])
        assert taken == 2
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert shown.splitlines()[-1] == "Error: stopped by SIGINT"
    assert "Traceback" not in shown
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=60)


def test_sigterm_ends_it_after_what_is_being_answered(tmp_path):
    model = umemma.load(save_model(tmp_path / "m", "image"), device="cpu")
    pixels = make_picture()
    answers = []
    with server.listen("127.0.0.1", 0) as listener:
        address = server.get_address(listener)

        def ask():
            requests.get(f"{address}/health", timeout=60)  # the server has begun
            answers.append(model.predict(image=pixels).present)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=ask)
        thread.start()
        with pytest.raises(UserError, match="stopped by SIGTERM") as stopped:
            server.serve(make_app(model, Limits(1000, 1, 1), "127.0.0.1"), listener)
        thread.join()
    assert stopped.value.exit_status == 75
    assert answers == [("image",)]


def test_a_port_that_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert call("serve", "no-model", "--port", str(port)) == 2
    shown = capsys.readouterr().err
    assert f"Error: --host 127.0.0.1 --port {port}: can't listen there: Address already" in shown
    assert "Choose another --port" in shown
    assert call("serve", "no-model", "--host", "192.0.2.1") == 2  # no machine has this address
    assert "can't listen there: Cannot assign" in capsys.readouterr().err


def test_an_address_is_one_for_a_browser():
    with server.listen("localhost", 0) as listener:
        port = listener.getsockname()[1]
        assert server.get_address(listener) in (f"http://127.0.0.1:{port}", f"http://[::1]:{port}")


def test_without_the_extra_the_error_names_it(tmp_path):
    code = "import sys; sys.modules['uvicorn'] = None; from umemma import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "model"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        "Error: umemma serve: the server is not installed\n"
        "Install it: pip install 'umemma[serve]'\n"
    )

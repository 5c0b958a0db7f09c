"""Bounds of a request: size, time, number, and the host that it is meant for."""

from __future__ import annotations

import contextlib
import json
import socket
from urllib.parse import urlsplit

import pytest
import requests
from toys.serving import start_thread

from umemma.serving.guard import is_loopback
from umemma.serving.limits import MAX_VALUES, Limits

HEAD = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@contextlib.contextmanager
def connect(address):
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        yield connection


def read_answer(connection):
    """Return the status and the JSON of an answer whose connection is then closed."""
    data = b""
    while b"}" not in data:
        part = connection.recv(2**16)
        assert part, data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.fixture(scope="module")
def small(model):
    """The address of a server with small bounds."""
    with start_thread(model, Limits(1000, 1, 1, seconds=0.5)) as address:
        yield address


def test_a_request_that_says_it_is_too_large_is_refused_before_it_comes(small):
    with connect(small) as connection:
        connection.sendall(f"{HEAD}Content-Length: 1001\r\n\r\n".encode())
        status, answer = read_answer(connection)
    assert (status, answer["error"]) == (413, "a request over 1,000 bytes")
    assert requests.post(f"{small}/predict", data=bytes(10**7), timeout=60).status_code == 413


def test_a_request_without_a_length_is_read_no_further_than_the_bound(small):
    with connect(small) as connection:
        connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        connection.sendall(b"258\r\n" + bytes(600) + b"\r\n")
        connection.sendall(b"258\r\n" + bytes(600) + b"\r\n")  # and there is no end
        status, answer = read_answer(connection)
    assert (status, answer["error"]) == (413, "a request over 1,000 bytes")


def test_a_request_of_the_largest_size_is_answered(small):
    body = json.dumps({"text": "dog"}).encode().ljust(1000)
    for extra, status in ((b"", 200), (b" ", 413)):
        headers = {"Content-Type": "application/json"}
        response = requests.post(f"{small}/predict", data=body + extra, headers=headers, timeout=60)
        assert response.status_code == status


def test_a_request_that_does_not_come_is_given_up(small):
    with connect(small) as connection:
        connection.sendall(f"{HEAD}Content-Length: 100\r\n\r\n{{".encode())
        status, answer = read_answer(connection)
    assert (status, answer["error"]) == (408, "the request did not come within 0.5 s")


def test_one_request_too_many_is_told_to_come_again(model):
    with start_thread(model, Limits(1000, 1, 1)) as address, connect(address) as connection:
        body = json.dumps({"text": "dog"})
        connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body[:3]}".encode())
        while True:  # until the first has begun
            response = requests.post(f"{address}/predict", json={"text": "dog"}, timeout=60)
            if response.status_code == 503:
                break
            assert response.status_code == 200
        assert response.headers["retry-after"] == "1"
        assert response.json()["error"] == "too many requests at one time"
        assert requests.get(f"{address}/health", timeout=60).status_code == 200
        connection.sendall(body[3:].encode())
        assert b" 200 " in connection.recv(2**16)
        assert requests.post(f"{address}/predict", json={"text": "x"}, timeout=60).ok


def test_json_of_too_many_values_is_not_parsed(model):
    with start_thread(model, Limits(2**26, 1, 1)) as address:
        body = b'{"wrist": [' + b"[]," * (MAX_VALUES // 2) + b"[]]}"
        headers = {"Content-Type": "application/json"}
        response = requests.post(f"{address}/predict", data=body, headers=headers, timeout=60)
    assert response.status_code == 413
    assert "more than 2,097,152 values" in response.json()["error"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8000"])
def test_this_machine_is_meant_by_its_names(address, host):
    response = requests.get(f"{address}/health", headers={"Host": host}, timeout=60)
    assert response.status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "[", ""])
def test_a_page_that_calls_this_machine_by_its_own_name_gets_nothing(address, host):
    """Its name may resolve to 127.0.0.1, and then it could read the answers."""
    response = requests.get(f"{address}/model", headers={"Host": host}, timeout=60)
    assert response.status_code in (400, 403)  # h11 itself refuses a name that can be none
    assert "classes" not in response.text


def test_a_server_for_other_machines_has_any_name(model):
    with start_thread(model, Limits(1000, 1, 1), host="0.0.0.0") as address:
        local = address.replace("0.0.0.0", "127.0.0.1")
        headers = {"Host": "models.example"}
        assert requests.get(f"{local}/health", headers=headers, timeout=60).ok


def test_a_page_of_another_site_cannot_ask(address):
    headers = {"Sec-Fetch-Site": "cross-site"}
    files = {"text": (None, "dog")}
    refused = requests.post(f"{address}/predict", files=files, headers=headers, timeout=60)
    assert refused.status_code == 403
    headers = {"Sec-Fetch-Site": "same-origin"}
    answered = requests.post(f"{address}/predict", files=files, headers=headers, timeout=60)
    assert answered.status_code == 200


def test_the_log_has_a_line_per_request_and_nothing_that_was_sent(address, messages):
    requests.get(f"{address}/a%0AError:%20forged?secret=1", timeout=60)
    requests.post(f"{address}/predict", json={"text": "a private text"}, timeout=60)
    lines = [line for line in "".join(messages).splitlines() if "predict" in line or "/a" in line]
    assert lines[0].startswith("GET '/a\\nError: forged': 404, ")
    assert lines[1].startswith("POST '/predict': 200, ")
    assert "private" not in "".join(messages)
    assert "secret" not in "".join(messages)


def test_what_is_this_machine():
    assert [is_loopback(host) for host in ("localhost", "127.0.0.1", "127.8.0.1", "::1")] == [
        True
    ] * 4
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))

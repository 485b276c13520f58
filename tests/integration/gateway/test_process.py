"""The gateway as a process over fake services as processes: kill -9, SIGTERM, a port in use, what it imports."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc

from services.core.errors import reason_of, rpc_status_of
from services.core.rpc.channels import channel_options
from tests.fakes.system import analyze_request
from tests.integration.gateway.calls import COMBINED, CRITIQUE, LORA, SOON
from tests.processes import ServiceProcess, child_environment, fake_process, service_process


@contextlib.contextmanager
def processes(folder: Path, critic_delay_ms: float = 0.0) -> Iterator[dict[str, ServiceProcess]]:
    """Yields three fakes and a gateway that serves, by name."""
    with contextlib.ExitStack() as stack:
        delays = {"embedder": 0.0, "critic": critic_delay_ms, "scorer": 0.0}
        running = {kind: stack.enter_context(fake_process(kind, folder, delay)) for kind, delay in delays.items()}
        environment = {f"MONDRIAN_GATEWAY_{kind.upper()}": fake.address for kind, fake in running.items()}
        running["gateway"] = stack.enter_context(service_process("gateway", folder, environment))
        for process in running.values():
            process.start()
        running["gateway"].wait_serving(60.0)
        yield running


def test_a_killed_backend_is_answered_for_and_its_return_is_noticed(tmp_path: Path) -> None:
    with processes(tmp_path) as running, grpc.insecure_channel(running["gateway"].address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        assert not stub.Analyze(analyze_request(COMBINED), timeout=SOON).failures
        running["critic"].kill()
        begun = time.monotonic()
        answer = stub.Analyze(analyze_request(COMBINED), timeout=SOON)
        assert [(failure.part, failure.status.reason) for failure in answer.failures] == [
            (CRITIQUE, "BACKEND_UNAVAILABLE")
        ]
        # At once, not when the deadline is nearly over.
        assert time.monotonic() - begun < SOON / 2
        running["critic"].start().wait_serving(60.0)
        give_up = time.monotonic() + SOON
        while answer.failures and time.monotonic() < give_up:
            answer = stub.Analyze(analyze_request(COMBINED), timeout=SOON)
        assert not answer.failures
        assert answer.critique.text


def test_sigterm_lets_the_calls_in_flight_finish_and_ends_with_0(tmp_path: Path) -> None:
    with (
        processes(tmp_path, critic_delay_ms=3000.0) as running,
        grpc.insecure_channel(running["gateway"].address, channel_options()) as channel,
        ThreadPoolExecutor(1) as pool,
    ):
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        request = gateway_pb2.StreamAnalyzeRequest(request=analyze_request(COMBINED))
        events = stub.StreamAnalyze(request, timeout=SOON)
        assert {next(events).WhichOneof("event") for _ in range(2)} == {"references", "scores"}
        # The critique is still being written when the signal comes.
        ending = pool.submit(running["gateway"].terminate, SOON)
        rest = [event.WhichOneof("event") for event in events]
        assert rest[-1] == "completed"
        assert ending.result() == 0
        assert "Traceback" not in running["gateway"].tail(200)


def test_sigterm_ends_a_batch_whose_client_would_send_for_ever(tmp_path: Path) -> None:
    with (
        processes(tmp_path) as running,
        grpc.insecure_channel(running["gateway"].address, channel_options()) as channel,
        ThreadPoolExecutor(1) as pool,
    ):
        more: queue.Queue[gateway_pb2.AnalyzeBatchRequest] = queue.Queue()
        more.put(gateway_pb2.AnalyzeBatchRequest(key="one", request=analyze_request(COMBINED)))
        results = gateway_pb2_grpc.GatewayServiceStub(channel).AnalyzeBatch(iter(more.get, None), timeout=SOON)
        assert next(results).key == "one"
        assert pool.submit(running["gateway"].terminate, SOON).result() == 0
        with pytest.raises(grpc.RpcError) as caught:
            next(results)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert reason_of(rpc_status_of(caught.value)) == "DRAINING"


def test_sigterm_while_waiting_for_backends_ends_with_0(tmp_path: Path) -> None:
    with service_process("gateway", tmp_path, {"MONDRIAN_GATEWAY_START_GATE_S": "60"}) as gateway:
        gateway.start()
        with grpc.insecure_channel(gateway.address, channel_options()) as channel:
            grpc.channel_ready_future(channel).result(SOON)
        assert gateway.terminate(SOON) == 0


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MONDRIAN_GATEWAY_LORA_DEADLINE_S": "soon"}, "MONDRIAN_GATEWAY_LORA_DEADLINE_S"),
        ({"MONDRIAN_GATEWAY_CRITIC": "http critic"}, "MONDRIAN_GATEWAY_CRITIC"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_exit_code_2(
    tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    with service_process("gateway", tmp_path, environment) as gateway:
        assert gateway.start().wait(SOON) == 2
        assert words in gateway.tail()
        assert "Traceback" not in gateway.tail()


def test_a_port_in_use_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    with processes(tmp_path) as running:
        taken = {"MONDRIAN_GATEWAY_PORT": str(running["gateway"].port)}
        with service_process("gateway", tmp_path, taken) as second:
            second.log = tmp_path / "second.log"
            assert second.start().wait(SOON) == 2
            assert "port is in use" in second.tail()
            assert "Traceback" not in second.tail()
        with grpc.insecure_channel(running["gateway"].address) as channel:
            answer = gateway_pb2_grpc.GatewayServiceStub(channel).Analyze(analyze_request(LORA), timeout=SOON)
            assert answer.critique.text


def test_the_gateway_imports_no_model_library_and_no_other_service() -> None:
    code = """
import sys
import services.gateway.__main__
loaded = {name.split('.')[0] for name in sys.modules}
print(sorted(loaded & {'torch', 'torchvision', 'transformers', 'peft', 'open_clip', 'hnswlib', 'timm'}))
services = {'.'.join(name.split('.')[:2]) for name in sys.modules if name.startswith('services.')}
print(sorted(services))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=child_environment({}), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['services.core', 'services.gateway']"]

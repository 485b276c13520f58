"""The channel to one service: how its address is resolved, and which of its replicas gets a call."""

from __future__ import annotations

import json

from services.core.rpc.channels import ChannelOptions, channel_options


def service_config(service: str, interval_s: float = 5.0) -> str:
    """Returns the gRPC service config (JSON) of the channel to one service.

    Round robin over healthy replicas only. A replica that fails four of five calls, judged every `interval_s` seconds,
    is left out for a while, but never half of them: bad photographs fail everywhere, and must not empty the balancer.
    (Ejection by success rate would need five replicas before one that always fails stands out.) UNAVAILABLE alone is
    retried, and never after the first byte of an answer; RESOURCE_EXHAUSTED is not, since repeating it multiplies an
    overload.
    """
    return json.dumps(
        {
            "loadBalancingConfig": [
                {
                    "outlier_detection_experimental": {
                        "interval": f"{interval_s:.3f}s",
                        "baseEjectionTime": "15s",
                        "maxEjectionTime": "120s",
                        "maxEjectionPercent": 34,
                        "failurePercentageEjection": {
                            "threshold": 80,
                            "enforcementPercentage": 100,
                            "minimumHosts": 2,
                            "requestVolume": 10,
                        },
                        "childPolicy": [{"round_robin": {}}],
                    }
                }
            ],
            "healthCheckConfig": {"serviceName": service},
            "methodConfig": [
                {
                    "name": [{"service": service}],
                    "retryPolicy": {
                        "maxAttempts": 3,
                        "initialBackoff": "0.05s",
                        "maxBackoff": "0.5s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        }
    )


def target(address: str) -> str:
    """Returns the gRPC target of an address: dns:/// before it unless it names a resolver itself."""
    return address if address.startswith(("dns:", "ipv4:", "ipv6:", "unix:")) else f"dns:///{address}"


def backend_options(config: str, connect_s: float) -> ChannelOptions:
    """Returns a backend's channel options; an attempt to connect is given up after `connect_s` seconds."""
    connect_ms = int(connect_s * 1000)
    overrides: ChannelOptions = [
        # Despite its name this bounds one attempt to connect; the default of 20 s would hold calls as long.
        ("grpc.min_reconnect_backoff_ms", connect_ms),
        # What is larger than this buffer is not retried; the default is 256 KiB, less than most photographs.
        ("grpc.per_rpc_retry_buffer_size", 16 * 1024 * 1024),
        # Backends are on the same network: a proxy that the environment names is for the world outside.
        ("grpc.enable_http_proxy", 0),
    ]
    names = {name for name, _ in overrides}
    return [option for option in channel_options(config) if option[0] not in names] + overrides

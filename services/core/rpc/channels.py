"""Options that every channel and server shares."""

from __future__ import annotations

from typing import Final

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024

ChannelOptions = list[tuple[str, str | int]]


def channel_options(service_config: str | None = None) -> ChannelOptions:
    """Returns the options of a client's channel: 16 MiB messages, keepalive, and a service config (JSON) if given."""
    options: ChannelOptions = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # A dead peer is noticed within 30 s; the server below permits a ping every 10 s.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A new replica behind a headless service is found after a second instead of half a minute.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if service_config is not None:
        options.append(("grpc.service_config", service_config))
    return options


def server_options(max_connection_age_s: float) -> ChannelOptions:
    """Returns the options of a server.

    Connections are renewed after `max_connection_age_s` seconds, since without an age a new replica gets no traffic.
    Calls in flight end in their own time on the old connection: a grace would cut off long streams in the middle.
    """
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # No compressed requests: photographs gain nothing, and 15 KB of zeros would unfold into 15 MiB of memory each.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_age_ms", int(max_connection_age_s * 1000)),
        # Two servers must never share a port in silence: the second is to fail.
        ("grpc.so_reuseport", 0),
    ]

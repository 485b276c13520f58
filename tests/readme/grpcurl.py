"""Does what `grpcurl` does with the options that README uses, by reflection alone: no proto of ours is imported.

grpcurl -plaintext [-d JSON|@] ADDRESS list
grpcurl -plaintext [-d JSON|@] ADDRESS SERVICE/METHOD
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

LIMIT = ("grpc.max_receive_message_length", 16 << 20)


def main() -> None:
    """Prints the names of the services, or the answers of a call as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-d", dest="data", default="{}")
    parser.add_argument("address")
    parser.add_argument("method")
    arguments = parser.parse_args()
    with grpc.insecure_channel(arguments.address, options=[LIMIT]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        if arguments.method == "list":
            print("\n".join(sorted(database.get_services())))
            return
        service, name = arguments.method.split("/")
        method = DescriptorPool(database).FindServiceByName(service).methods_by_name[name]
        text = sys.stdin.read() if arguments.data == "@" else arguments.data
        request = json_format.Parse(text, GetMessageClass(method.input_type)())
        call: Callable[..., Message] = channel.unary_unary(
            f"/{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        print(json_format.MessageToJson(call(request, timeout=60)))


if __name__ == "__main__":
    main()

"""The server of proto/story.proto in another language. Prints its port, and serves until it is killed."""

import sys
import time
from concurrent import futures

import grpc
import story_pb2
import story_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

CODES = {code.value[0]: code for code in grpc.StatusCode}
HEALTH = health.HealthServicer()


def say(serving):
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    HEALTH.set("story.Teller", status)


class Teller(story_pb2_grpc.TellerServicer):
    def told(self, ask, context):
        if ask.text.startswith("health "):
            say(ask.text == "health on")
        time.sleep(ask.delay_ms / 1000)
        if ask.code:
            context.abort(CODES[ask.code], "as asked")
        metadata = dict(context.invocation_metadata())
        left = context.time_remaining()
        return story_pb2.Told(
            text=ask.text,
            by="python",
            timeout="" if left is None else f"{left:.3f}",
            previous_attempts=metadata.get("grpc-previous-rpc-attempts", ""),
        )

    def Tell(self, ask, context):
        return self.told(ask, context)

    def Stream(self, ask, context):
        for _ in range(ask.count):
            yield story_pb2.Told(text=ask.text, by="python")
        if ask.code:
            context.abort(CODES[ask.code], "as asked")

    def Collect(self, asks, context):
        return self.told(story_pb2.Ask(text="".join(ask.text for ask in asks)), context)

    def Converse(self, asks, context):
        for ask in asks:
            yield story_pb2.Told(text=ask.text, by="python")


server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
story_pb2_grpc.add_TellerServicer_to_server(Teller(), server)
health_pb2_grpc.add_HealthServicer_to_server(HEALTH, server)
say(True)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
# As long as whoever started it is there.
sys.stdin.read()

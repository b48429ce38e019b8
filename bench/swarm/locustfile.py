"""tokenwire's streams as a locustfile: `locust -f PATH --host http://TARGET` (`tokenwire locustfile` prints PATH)."""

from bench.swarm.users import SSEUser, WebSocketUser
from bench.swarm.wiring import wire_up

wire_up()

__all__ = ["SSEUser", "WebSocketUser"]

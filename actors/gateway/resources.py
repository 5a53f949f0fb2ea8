"""From the routing table to Envoy's resources: a cluster and its endpoints per component, a route scope per host.

Knows Envoy's message types; must not know who sends them or what the table is folded from. One scope per host, not one
table: Envoy rebuilds a whole route configuration for each change in it, so a table of 10,000 hosts costs 10,000 hosts.
"""

import socket
from typing import Final

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_components_pb2, scoped_route_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message

from actors.gateway.catalog import Resource, content_version
from actors.gateway.table import ComponentRouting, EndpointSpec, RoutingTable

METADATA = "rayfold"
"""The metadata namespace that pages and the access log read."""
UPSTREAM_IDLE_SECONDS = 1.0
"""Below every common server's own keep-alive (gunicorn 2 s, Node and uvicorn 5 s), so that Envoy closes first and no
request is written to a connection that the application is just closing."""
CONNECT_TIMEOUT_SECONDS = 2.0
SILENT_SECONDS = 30
"""After which a connection is given up on which nothing that was sent is acknowledged, or no probe while an answer is
awaited: the machine is cut off or off. A kernel acknowledges for a program that is busy, so a slow answer is no
silence; but one that reads nothing of a body for this long, with its buffers full, is taken for silent too."""
_PROBE_AFTER_SECONDS = 15
_PROBE_EVERY_SECONDS = 5
RETRIES = 3
RETRY_ALWAYS = "connect-failure,refused-stream,reset-before-request"
"""Safe for any method: the application has not seen the request."""
RETRY_SAFE = RETRY_ALWAYS + ",reset"
SAFE_METHODS = "^(GET|HEAD|OPTIONS)$"
NO_LIMIT = 1_000_000
"""In place of Envoy's 1,024 connections and 3 retries per cluster, which would refuse requests under a real load."""


def duration(seconds: float) -> duration_pb2.Duration:
    """Seconds as a protobuf duration."""
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))


def packed(message: Message) -> any_pb2.Any:
    """The message in an Any, with map fields in one order: equal content gives equal bytes, so equal versions."""
    wrapped = any_pb2.Any()
    wrapped.Pack(message, deterministic=True)
    return wrapped


ADS: Final = {"ads": {}, "initial_fetch_timeout": {"seconds": 0}, "resource_api_version": "V3"}
"""A config source: the aggregated stream, waiting as long as it takes. Half a table is worse than a late one."""


def to_resource(name: str, message: Message, needs: tuple[str, ...] = ()) -> Resource:
    """Serialize a resource and give it its version."""
    body = bytes(packed(message).SerializeToString(deterministic=True))
    return Resource(name=name, version=content_version(body), body=body, needs=needs)


def cluster(service_id: str) -> Resource:
    """The component as a target. The same for every component but its name: changes are in the endpoints."""
    message = cluster_pb2.Cluster()
    message.CopyFrom(_CLUSTER)
    message.name = service_id
    return to_resource(service_id, message)


def endpoints(routing: ComponentRouting) -> Resource:
    """The component's instances; the draining ones stay in, so that what is in flight finishes."""
    message = endpoint_pb2.ClusterLoadAssignment(
        cluster_name=routing.service_id,
        endpoints=[{"lb_endpoints": [_endpoint(spec, routing.available) for spec in routing.endpoints]}],
    )
    return to_resource(routing.service_id, message)


def scope(host: str, table: RoutingTable, stream_idle: float) -> Resource | None:
    """Everything below one host name; None for a host that nobody has."""
    routes: list[route_components_pb2.Route] = []
    for route in table.routes(host):
        routing = table.component(route.service_id)
        if routing is not None:
            routes += _routes(route.path_prefix, routing, stream_idle)
    if not routes:
        return None
    message = scoped_route_pb2.ScopedRouteConfiguration(
        name=host,
        key={"fragments": [{"string_key": host}]},
        route_configuration={
            "name": host,
            "virtual_hosts": [{"name": host, "domains": ["*"], "routes": routes}],
            # The application sees the address that the client used.
            "request_headers_to_add": _FORWARDED,
            "request_headers_to_remove": ["x-envoy-external-address"],
        },
    )
    return to_resource(host, message, tuple(sorted({route.service_id for route in table.routes(host)})))


def _routes(prefix: str, routing: ComponentRouting, stream_idle: float) -> list[route_components_pb2.Route]:
    """Two routes: the methods that may be repeated after the application has seen them, and the others."""
    match: dict[str, object] = {"prefix": "/"} if prefix == "/" else {"path_separated_prefix": prefix}
    safe = {"name": ":method", "string_match": {"safe_regex": {"regex": SAFE_METHODS}}}
    names = {"team": routing.team, "app": routing.app, "component": routing.component, "service_id": routing.service_id}
    return [
        route_components_pb2.Route(
            match=match | {"headers": headers},
            metadata=_metadata(**names),
            route={
                "cluster": routing.service_id,
                # No limit on a whole answer (streams, long polls); the idle timeout ends what has died.
                "timeout": duration(0),
                "idle_timeout": duration(stream_idle),
                "retry_policy": policy,
            },
        )
        for headers, policy in (([safe], _RETRY_SAFE), ([], _RETRY_ALWAYS))
    ]


def _endpoint(spec: EndpointSpec, available: bool) -> dict[str, object]:
    serves = available and spec.state == "active"
    return {
        "endpoint": {"address": {"socket_address": {"address": spec.host, "port_value": spec.port}}},
        "health_status": "HEALTHY" if serves else "DRAINING",
        "metadata": _metadata(instance_id=spec.instance_id),
    }


def _metadata(**names: str) -> dict[str, object]:
    fields = {key: {"string_value": value} for key, value in names.items()}
    return {"filter_metadata": {METADATA: {"fields": fields}}}


def _retry_policy(conditions: str) -> route_components_pb2.RetryPolicy:
    elsewhere = packed(previous_hosts_pb2.PreviousHostsPredicate())
    return route_components_pb2.RetryPolicy(
        retry_on=conditions,
        num_retries={"value": RETRIES},
        retry_host_predicate=[{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": elsewhere}],
        host_selection_retry_max_attempts=5,
        retry_back_off={"base_interval": duration(0.005), "max_interval": duration(0.1)},
    )


def _cluster_template() -> cluster_pb2.Cluster:
    limit = {"value": NO_LIMIT}
    breakers = circuit_breaker_pb2.CircuitBreakers.Thresholds(
        max_connections=limit, max_pending_requests=limit, max_requests=limit, max_retries=limit
    )
    protocol = http_protocol_options_pb2.HttpProtocolOptions(
        common_http_protocol_options={"idle_timeout": duration(UPSTREAM_IDLE_SECONDS)},
        explicit_http_config={"http_protocol_options": {}},
    )
    return cluster_pb2.Cluster(
        type="EDS",
        eds_cluster_config={"eds_config": ADS},
        connect_timeout=duration(CONNECT_TIMEOUT_SECONDS),
        upstream_bind_config={"socket_options": [_GIVE_UP_SILENT]},
        upstream_connection_options={"tcp_keepalive": _PROBES},
        lb_policy="LEAST_REQUEST",
        # Never to a draining instance, even when no other is left (Envoy's panic mode would).
        common_lb_config={"healthy_panic_threshold": {"value": 0.0}},
        circuit_breakers={"thresholds": [breakers]},
        typed_extension_protocol_options={"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(protocol)},
    )


_FORWARDED: Final = [
    {
        "header": {"key": "x-forwarded-host", "value": "%REQ(:AUTHORITY)%"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    },
    {
        # By hand: for a client on this machine Envoy would write the machine's own outside address.
        "header": {"key": "x-forwarded-for", "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"},
        "append_action": "APPEND_IF_EXISTS_OR_ADD",
    },
]
_GIVE_UP_SILENT: Final = {
    "description": "TCP_USER_TIMEOUT",
    "level": socket.IPPROTO_TCP,
    "name": socket.TCP_USER_TIMEOUT,
    "int_value": SILENT_SECONDS * 1000,
    "state": "STATE_PREBIND",
}
_PROBES: Final = {
    "keepalive_time": {"value": _PROBE_AFTER_SECONDS},
    "keepalive_interval": {"value": _PROBE_EVERY_SECONDS},
    "keepalive_probes": {"value": (SILENT_SECONDS - _PROBE_AFTER_SECONDS) // _PROBE_EVERY_SECONDS},
}
_RETRY_SAFE: Final = _retry_policy(RETRY_SAFE)
_RETRY_ALWAYS: Final = _retry_policy(RETRY_ALWAYS)
_CLUSTER: Final = _cluster_template()

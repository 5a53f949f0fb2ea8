"""The HTTP listener: connection handling, headers, the gateway's own answers and the access log.

Knows Envoy's listener messages; nothing of the routing table, which reaches the listener by scoped discovery.
"""

from typing import Final

import msgspec
from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.type.matcher.v3 import http_inputs_pb2 as request_headers_pb2
from google.protobuf import struct_pb2

from actors.gateway.catalog import Resource
from actors.gateway.pages import PAGES, Page, html, problem
from actors.gateway.resources import ADS, METADATA, duration, packed, to_resource

LISTENER = "http"
REQUEST_HEADERS_SECONDS = 10.0
"""A client that takes longer to send its headers holds a connection for nothing."""
MAX_REQUEST_HEADERS_KB = 64


class ListenerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen, where to log, and how long (seconds) a stream may be without a byte either way."""

    bind: str
    port: int
    access_log: str
    stream_idle: float


def listener(settings: ListenerSettings) -> Resource:
    """The listener as a resource. It opens its port once the routes are in."""
    manager = packed(_manager(settings))
    message = listener_pb2.Listener(
        name=LISTENER,
        address={"socket_address": {"address": settings.bind, "port_value": settings.port}},
        filter_chains=[{"filters": [{"name": "http", "typed_config": manager}]}],
        # Two processes on one port would share it silently; better that the second says so.
        enable_reuse_port={"value": False},
    )
    return to_resource(LISTENER, message)


def _manager(settings: ListenerSettings) -> http_connection_manager_pb2.HttpConnectionManager:
    lower_host = {"name": "lower-host", "typed_config": packed(_lower_host())}
    router = router_pb2.Router(suppress_envoy_headers=True)
    return http_connection_manager_pb2.HttpConnectionManager(
        stat_prefix=LISTENER,
        scoped_routes=_scopes(),
        http_filters=[lower_host, {"name": "router", "typed_config": packed(router)}],
        upgrade_configs=[{"upgrade_type": "websocket"}],
        http_protocol_options={"accept_http_10": True, "default_host_for_http_10": "localhost"},
        common_http_protocol_options={"idle_timeout": duration(settings.stream_idle)},
        server_header_transformation="PASS_THROUGH",
        max_request_headers_kb={"value": MAX_REQUEST_HEADERS_KB},
        stream_idle_timeout=duration(settings.stream_idle),
        request_headers_timeout=duration(REQUEST_HEADERS_SECONDS),
        # The edge: no client is inside, so x-envoy-* from clients is dropped and x-request-id is always ours.
        use_remote_address={"value": True},
        internal_address_config={"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": {"value": 32}}]},
        skip_xff_append=True,
        append_x_forwarded_port=True,
        always_set_request_id_in_response=True,
        strip_trailing_host_dot=True,
        normalize_path={"value": True},
        local_reply_config={"mappers": [mapper for page in PAGES for mapper in _mappers(page)]},
        access_log=[_access_log(settings.access_log)],
    )


def _scopes() -> http_connection_manager_pb2.ScopedRoutes:
    """The host without its port is the key."""
    extractor = {"name": ":authority", "element_separator": ":", "index": 0}
    return http_connection_manager_pb2.ScopedRoutes(
        name="hosts",
        scope_key_builder={"fragments": [{"header_value_extractor": extractor}]},
        rds_config_source=ADS,
        scoped_rds={"scoped_rds_config_source": ADS},
    )


def _lower_host() -> extension_matcher_pb2.ExtensionWithMatcher:
    """Scopes are found by the exact host; host names have no case (RFC 4343). Runs only for a host with capitals."""
    script = lua_pb2.Lua(default_source_code={"inline_string": _LOWER_HOST})
    host = request_headers_pb2.HttpRequestHeaderMatchInput(header_name=":authority")
    usual = {
        "input": {"name": "host", "typed_config": packed(host)},
        "value_match": {"safe_regex": {"google_re2": {}, "regex": "[^A-Z]*"}},
    }
    skip = {"name": "skip", "typed_config": packed(skip_action_pb2.SkipFilter())}
    matcher = {"predicate": {"single_predicate": usual}, "on_match": {"action": skip}}
    return extension_matcher_pb2.ExtensionWithMatcher(
        extension_config={"name": "lua", "typed_config": packed(script)},
        xds_matcher={"matcher_list": {"matchers": [matcher]}},
    )


def _mappers(page: Page) -> list[http_connection_manager_pb2.ResponseMapper]:
    """JSON for who asks for it and not for HTML too, as browsers do; the page for everybody else."""
    headers = [
        {"header": {"key": "x-rayfold-error", "value": page.code}, "append_action": _OVERWRITE},
        {"header": {"key": "cache-control", "value": "no-store"}, "append_action": _OVERWRITE},
    ]
    flagged = {"response_flag_filter": {"flags": page.flags}}
    wants_json = [_accepts("json", False), _accepts("text/html", True)]
    as_json = {"json_format": _struct(problem(page)), "content_type": "application/problem+json"}
    as_html = {
        "text_format_source": {"inline_string": html(page)},
        "content_type": "text/html; charset=utf-8",
    }
    return [
        http_connection_manager_pb2.ResponseMapper(
            filter={"and_filter": {"filters": [flagged, *wants_json]}},
            headers_to_add=headers,
            body_format_override=as_json,
        ),
        http_connection_manager_pb2.ResponseMapper(
            filter=flagged, headers_to_add=headers, body_format_override=as_html
        ),
    ]


def _accepts(kind: str, invert: bool) -> dict[str, object]:
    matcher = {"name": "accept", "string_match": {"contains": kind}, "invert_match": invert}
    return {"header_filter": {"header": matcher}}


def _access_log(path: str) -> accesslog_pb2.AccessLog:
    """One JSON object a line; fields that do not apply are null."""
    route = f"%METADATA(ROUTE:{METADATA}"
    fields = {
        "at": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "method": "%REQ(:METHOD)%",
        "host": "%REQ(:AUTHORITY)%",
        "path": "%REQ(:PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "duration_ms": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "user_agent": "%REQ(USER-AGENT)%",
        "service_id": f"{route}:service_id)%",
        "team": f"{route}:team)%",
        "app": f"{route}:app)%",
        "component": f"{route}:component)%",
        "instance_id": f"%METADATA(UPSTREAM_HOST:{METADATA}:instance_id)%",
    }
    sink = file_pb2.FileAccessLog(path=path, log_format={"json_format": _struct(fields)})
    return accesslog_pb2.AccessLog(name="file", typed_config=packed(sink))


def _struct(fields: dict[str, str]) -> struct_pb2.Struct:
    return struct_pb2.Struct(fields={key: struct_pb2.Value(string_value=value) for key, value in fields.items()})


_LOWER_HOST: Final = """
function envoy_on_request(request)
  local headers = request:headers()
  headers:replace(":authority", string.lower(headers:get(":authority")))
end
"""
_OVERWRITE: Final = "OVERWRITE_IF_EXISTS_OR_ADD"

"""What Envoy must know before it can ask: who it is, where the xDS socket and the admin socket are.

Everything that may ever change while it runs comes over xDS instead, so it must not hold ports, routes or limits.
"""

import msgspec

XDS_CLUSTER = "rayfold-xds"

_KEPT_STATS = [
    *({"prefix": f"{group}."} for group in ("server", "listener", "http", "cluster_manager", "listener_manager")),
    {
        "safe_regex": {
            "regex": r"cluster\.[^.]+\.upstream_(rq_([1-5]xx|total|active|retry)|cx_(total|active|connect_fail))"
        }
    },
]
"""What is worth counting. A component has some 300 statistics in Envoy; these are the ones that tell something."""


class Bootstrap(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy's start: `node_id` names this gateway, both sockets lie in a directory of the platform's user alone."""

    node_id: str
    xds_socket: str
    admin_socket: str

    def to_json(self) -> bytes:
        """As Envoy reads it from a .json file."""
        return msgspec.json.format(msgspec.json.encode(self._document()), indent=1)

    def _document(self) -> dict[str, object]:
        ads = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
        stream = {
            "envoy_grpc": {
                "cluster_name": XDS_CLUSTER,
                # Envoy's own default backs off to 30 s; a gateway that restarts is back in one or two.
                "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
            }
        }
        return {
            "node": {"id": self.node_id, "cluster": "rayfold-gateway"},
            "admin": {"address": {"pipe": {"path": self.admin_socket, "mode": 0o600}}},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": True,
                    "grpc_services": [stream],
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "static_resources": {"clusters": [self._xds_cluster()]},
            # Made when first counted, and read out only when asked: at 10,000 components either would stall changes.
            "deferred_stat_options": {"enable_deferred_creation_stats": True},
            "stats_flush_on_admin": True,
            "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": _KEPT_STATS}}},
            "overload_manager": {
                "resource_monitors": [
                    {
                        "name": "envoy.resource_monitors.global_downstream_max_connections",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
                            "downstream_connections.v3.DownstreamConnectionsConfig",
                            "max_active_downstream_connections": 50_000,
                        },
                    }
                ]
            },
        }

    def _xds_cluster(self) -> dict[str, object]:
        keepalive = {"interval": "5s", "timeout": "5s"}
        protocol = {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}},
        }
        address = {"pipe": {"path": self.xds_socket}}
        return {
            "name": XDS_CLUSTER,
            "type": "STATIC",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
            "load_assignment": {
                "cluster_name": XDS_CLUSTER,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        }

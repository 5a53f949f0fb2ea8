"""The gRPC interface: the task queue for programs. `*_pb2*` are generated; `python -m api.grpc.generate` makes them."""

//! The place of the gRPC contract: generated types from `proto/`, once there is a gRPC face to serve them.

//! Egress over HTTP: requests, tunnels, and the clients that people use.

mod clients;
mod requests;
mod tls;
mod tunnels;

//! The HTTP server for health, readiness and metrics. It runs on a thread and a runtime of its own, so that it answers
//! when the worker is busy. Knows nothing of brokers.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;

use crate::app::Status;
use crate::telemetry::Metrics;

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    status: watch::Receiver<Status>,
}

/// Binds `address` and serves until the process ends. Returns the address bound, which tells the port where 0 was asked.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve(address: SocketAddr, metrics: Arc<Metrics>, status: watch::Receiver<Status>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(page))
        .with_state(Shared { metrics, status });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let served = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, router).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(%error, "the admin server has ended");
            }
        });
    })?;
    Ok(bound)
}

async fn ready(State(shared): State<Shared>) -> impl IntoResponse {
    let status = *shared.status.borrow();
    match status {
        Status::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Status::Running => (StatusCode::OK, "ready\n"),
        Status::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn page(State(shared): State<Shared>) -> impl IntoResponse {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], shared.metrics.page())
}

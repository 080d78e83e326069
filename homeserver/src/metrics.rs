//! `/metrics` for Prometheus: what is measured, described, and the gauges that are read when somebody asks.
//!
//! The parts of the server record through the `metrics` facade, each under names of its own; this gathers them.
//! The process has one recorder, so of two servers in one process each serves the figures of both.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use hearth_engine::Engine;
use metrics::{SetRecorderError, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

const BATCH: &str = "hearth_commit_batch_changes";
const CONNECTIONS: &str = "hearth_database_connections";

/// From half a millisecond, a commit on a fast disk, to the half minute of a waiting sync.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
const CHANGES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// How often histograms are condensed: between two calls they keep every value.
const UPKEEP: Duration = Duration::from_secs(5);

/// Makes the process's recorder; a second call is an error.
pub fn install() -> Result<PrometheusHandle, SetRecorderError<PrometheusRecorder>> {
    let recorder = buckets().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    describe_histogram!(
        "hearth_commit_seconds",
        Unit::Seconds,
        "From the drain of the queue to the answer to COMMIT."
    );
    describe_histogram!(BATCH, "Changes that were committed together.");
    describe_gauge!("hearth_log_position", "The last position of the log.");
    describe_counter!(
        "hearth_changes_failed_total",
        "Changes that were not committed, by cause."
    );
    describe_gauge!("hearth_rooms_in_memory", "Rooms whose head is in memory.");
    describe_gauge!(
        "hearth_rooms_in_memory_bytes",
        "What the heads of rooms take, about."
    );
    describe_gauge!("hearth_sync_waiters", "Syncs that wait for something to happen.");
    describe_gauge!("hearth_sockets_open", "WebSockets that are open.");
    describe_counter!(
        "hearth_sockets_closed_total",
        "WebSockets that ended, by close code."
    );
    describe_counter!("hearth_socket_pushes_total", "Answers of sync that were pushed.");
    describe_gauge!(CONNECTIONS, "Connections of the database pool, by state.");
    describe_federation();
    Ok(handle)
}

fn describe_federation() {
    describe_counter!(
        "hearth_federation_transactions_sent_total",
        "Transactions to other servers, by outcome."
    );
    describe_histogram!(
        "hearth_federation_transaction_seconds",
        Unit::Seconds,
        "From sending a transaction to its answer."
    );
    describe_histogram!(
        "hearth_federation_delivery_lag_seconds",
        Unit::Seconds,
        "From the making of a transaction's first event to the answer."
    );
    describe_counter!(
        "hearth_federation_pdus_sent_total",
        "Events that other servers took."
    );
    describe_counter!(
        "hearth_federation_pdus_refused_total",
        "Events that other servers took and refused; the log says why."
    );
    describe_counter!(
        "hearth_federation_edus_sent_total",
        "EDUs that other servers took."
    );
    describe_gauge!(
        "hearth_federation_outgoing_waiting",
        "Events and EDUs that wait in memory for other servers."
    );
    describe_gauge!(
        "hearth_federation_outgoing_lag_positions",
        "How far in the log the last server lags behind, of those that answer."
    );
    describe_gauge!(
        "hearth_federation_destinations_failing",
        "Other servers that take nothing."
    );
    describe_gauge!(
        "hearth_federation_destinations_behind",
        "Other servers that are owed more than waits in memory."
    );
    describe_counter!(
        "hearth_federation_transactions_received_total",
        "Transactions of other servers that were taken."
    );
    describe_counter!(
        "hearth_federation_edus_received_total",
        "EDUs of other servers, by type."
    );
    describe_counter!(
        "hearth_federation_pdus_received_total",
        "Events of other servers that were verified and kept, to be judged."
    );
    describe_counter!(
        "hearth_federation_events_judged_total",
        "Events of other servers that were judged, by outcome; the log says why."
    );
    describe_counter!(
        "hearth_federation_missing_events_asked_total",
        "Times that another server was asked for events between those known."
    );
    describe_counter!(
        "hearth_federation_keys_asked_total",
        "Times that another server was asked for its keys, by outcome."
    );
    describe_counter!(
        "hearth_federation_requests_sent_total",
        "Questions to other servers, by outcome."
    );
    begin_at_zero();
}

/// What has not happened yet is there too: who is to be told of the first time needs to see the time before.
fn begin_at_zero() {
    for name in [
        "hearth_federation_transactions_received_total",
        "hearth_federation_pdus_sent_total",
        "hearth_federation_pdus_refused_total",
        "hearth_federation_edus_sent_total",
        "hearth_federation_pdus_received_total",
        "hearth_federation_missing_events_asked_total",
    ] {
        counter!(name).increment(0);
    }
    for name in [
        "hearth_federation_outgoing_waiting",
        "hearth_federation_outgoing_lag_positions",
        "hearth_federation_destinations_failing",
        "hearth_federation_destinations_behind",
    ] {
        gauge!(name).set(0.0);
    }
    for (name, outcomes) in [
        (
            "hearth_federation_transactions_sent_total",
            &["taken", "failed"][..],
        ),
        (
            "hearth_federation_events_judged_total",
            &["accepted", "soft_failed", "rejected", "unplaceable"],
        ),
        ("hearth_federation_keys_asked_total", &["fetched", "failed"]),
    ] {
        for outcome in outcomes {
            counter!(name, "outcome" => *outcome).increment(0);
        }
    }
}

fn buckets() -> PrometheusBuilder {
    let builder = PrometheusBuilder::new();
    let builder = match builder.set_buckets(SECONDS) {
        Ok(builder) => builder,
        Err(error) => unreachable!("the list of buckets is not empty: {error}"),
    };
    match builder.set_buckets_for_metric(Matcher::Full(BATCH.to_owned()), CHANGES) {
        Ok(builder) => builder,
        Err(error) => unreachable!("the list of buckets is not empty: {error}"),
    }
}

/// Condenses what was recorded, for ever.
pub async fn keep_up(handle: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP);
    loop {
        interval.tick().await;
        handle.run_upkeep();
    }
}

/// `GET /metrics`.
pub fn route(handle: PrometheusHandle, engine: Arc<Engine>) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .with_state((handle, engine))
}

async fn render(State((handle, engine)): State<(PrometheusHandle, Arc<Engine>)>) -> Response {
    let (open, idle) = engine.db.pool_use();
    let idle = u32::try_from(idle).unwrap_or(u32::MAX);
    gauge!(CONNECTIONS, "state" => "idle").set(idle);
    gauge!(CONNECTIONS, "state" => "busy").set(open.saturating_sub(idle));
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        handle.render(),
    )
        .into_response()
}

//! Figures for Prometheus: those of the engine, which finds the recorder when it is opened, and those of the service.

use crate::Failure;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;

const RESERVATIONS: &str = "booking_reservations_total";

/// Upper bounds of the histograms. All but one are of seconds.
const SECONDS: [f64; 15] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 5.0,
];
const GROUP_RECORDS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0, 2_048.0];

const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Installs the recorder; the engine must be opened after this.
pub(crate) fn install() -> Result<PrometheusHandle, Failure> {
    let group_records = Matcher::Full("mailring_journal_group_records".to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets(&SECONDS)?
        .set_buckets_for_metric(group_records, &GROUP_RECORDS)?
        .install_recorder()?;
    metrics::describe_counter!(
        RESERVATIONS,
        "Reservations that came to this: refused since a seat was taken, or else held, and then confirmed, cancelled or \
         expired"
    );
    Ok(handle)
}

/// A reservation has come to this.
pub(crate) fn count(outcome: &'static str) {
    metrics::counter!(RESERVATIONS, "outcome" => outcome).increment(1);
}

/// Histograms keep every value until this is done or they are rendered, and nobody may ask for them.
pub(crate) async fn keep_up(figures: PrometheusHandle) {
    loop {
        actix_web::rt::time::sleep(UPKEEP_EVERY).await;
        figures.run_upkeep();
    }
}

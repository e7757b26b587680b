//! From the flags to a service that serves, and to its end.
//!
//! ```text
//!  open the engine ─▶ sweepers ─▶ listen ─▶ say where ─▶ ... SIGTERM or ctrl-c
//!                                                          │ take no more connections
//!                                                          │ end the requests that are under way
//!                                                          ▼ stop the sweepers ─▶ shut the engine down
//! ```

use crate::{Failure, Flags, api, figures, hall::Hall, sweeper};
use actix_web::{App, HttpServer, rt, web};
use mailring::Mailring;
use metrics_exporter_prometheus::PrometheusHandle;
use std::{
    future::Future,
    io::{self, Write},
};
use tokio::sync::watch;

/// Sweepers, of which one works.
const SWEEPERS: usize = 2;

/// Seconds that requests under way are given when the service is asked to stop.
const GRACE_SECONDS: u64 = 30;

/// Serves until it is asked to stop.
pub(crate) async fn run(flags: &Flags) -> Result<(), Failure> {
    // Before the engine is opened: it looks for a recorder then.
    let figures = figures::install()?;
    let engine = Mailring::builder(&flags.dir).max_lease(flags.lease());
    let db = engine.open().await?;
    let served = serve(flags, &db, figures).await;
    let closed = db.shutdown().await;
    served?;
    Ok(closed?)
}

async fn serve(flags: &Flags, db: &Mailring, figures: PrometheusHandle) -> Result<(), Failure> {
    let hall = Hall::open(db, flags.seats, flags.hold()).await?;
    let stop = stop_signal()?;

    let data = (
        web::Data::new(hall.clone()),
        web::Data::new(figures.clone()),
    );
    let app = move || {
        let (hall, figures) = data.clone();
        App::new()
            .app_data(hall)
            .app_data(figures)
            .configure(api::routes)
    };
    let server = HttpServer::new(app)
        // It would take ctrl-c for an order to drop what is under way.
        .disable_signals()
        .shutdown_timeout(GRACE_SECONDS)
        .bind(flags.listen)
        .map_err(|error| format!("can't listen on {}: {error}", flags.listen))?;
    let address = server.addrs()[0];
    let server = server.run();
    let handle = server.handle();

    let (closing, is_closing) = watch::channel(false);
    let sweep = || sweeper::run(hall.clone(), flags.lease(), is_closing.clone());
    let sweepers: Vec<_> = (0..SWEEPERS).map(|_| rt::spawn(sweep())).collect();
    let upkeep = rt::spawn(figures::keep_up(figures));

    let mut stdout = io::stdout().lock();
    writeln!(stdout, "booking: http://{address}, {} seats", hall.size())?;
    stdout.flush()?;
    drop(stdout);

    let mut server = rt::spawn(server);
    let served = tokio::select! {
        served = &mut server => served,
        () = stop => {
            handle.stop(true).await;
            server.await
        }
    };
    closing.send_replace(true);
    upkeep.abort();
    for sweeper in sweepers {
        sweeper.await?;
    }
    Ok(served??)
}

/// A future that is ready when the process is asked to stop. It is listened for from the call on.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use rt::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// A future that is ready when the process is asked to stop.
#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = rt::signal::ctrl_c().await;
    })
}

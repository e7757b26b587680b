//! The handle inside of actix-web: no `System` of its own to set up, and many workers on one engine.

use actix_web::{App, HttpResponse, Responder, http::StatusCode, test, web};
use mailring::{Keyspace, Mailring};

/// Counts a visit and answers the number of visits.
async fn visit(counters: web::Data<Keyspace>, page: web::Path<String>) -> impl Responder {
    match counters.add(page.as_bytes(), 1).await {
        Ok(visits) => HttpResponse::Ok().body(visits.to_string()),
        Err(error) if error.is_retryable() => {
            HttpResponse::ServiceUnavailable().body(error.to_string())
        }
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

#[actix_web::test]
async fn a_web_service_shares_one_keyspace_between_its_requests() {
    let directory = tempfile::tempdir().unwrap();
    let db = Mailring::builder(directory.path()).open().await.unwrap();
    let counters = web::Data::new(db.keyspace("counters").await.unwrap());
    let app = App::new()
        .app_data(counters.clone())
        .route("/{page}", web::get().to(visit));
    let app = test::init_service(app).await;
    let get = || test::TestRequest::get().uri("/home").to_request();
    for expected in ["1", "2", "3"] {
        assert_eq!(test::call_and_read_body(&app, get()).await, expected);
    }
    db.shutdown().await.unwrap();
    let closed = test::call_service(&app, get()).await;
    assert_eq!(closed.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

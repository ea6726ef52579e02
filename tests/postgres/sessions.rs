//! From a client's first byte to a sealed session.

use crate::support::gateway::Gateway;
use crate::support::postgres::{shared, succeeded};

#[test]
fn a_simple_query_is_recorded_with_its_rows() {
    let gateway = Gateway::before(shared());
    let database = shared().database();
    let out =
        succeeded(gateway.psql(&database).args(["-c", "SELECT 1 AS one, 'zwei' AS two"]).output().unwrap());
    assert_eq!(out.trim(), "1|zwei");
    gateway.wait_closed();
    println!("{:#?}", gateway.story());
}

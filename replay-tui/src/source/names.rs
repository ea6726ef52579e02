//! Which field of which kind a filter's field means.

use std::borrow::Cow;

use bodycam_record::filter::Field;
use bodycam_record::kinds::Body;

use crate::event::EventItem;
use crate::matcher::Cell;

/// The value of `field` in an event's body.
pub(super) fn cell<'a>(body: &'a Body, item: &'a EventItem, field: Field) -> Cell<'a> {
    match field {
        Field::Reason => Cell::optional(reason(body)),
        Field::Statement => match body {
            Body::SqlStatement(b) => Cell::text(&b.statement_kind),
            Body::SqlResult(b) => Cell::text(&b.statement_kind),
            _ => Cell::Absent,
        },
        Field::Table => tables(body),
        Field::Column => match body {
            Body::SqlStatement(b) => Cell::list(&b.output_columns),
            _ => Cell::Absent,
        },
        Field::Outcome => Cell::optional(
            match body {
                Body::SqlResult(b) => Some(&b.outcome),
                Body::SqlCopy(b) => Some(&b.outcome),
                Body::HttpResponse(b) => Some(&b.outcome),
                Body::HttpTunnelClosed(b) => Some(&b.outcome),
                _ => None,
            }
            .map(String::as_str),
        ),
        Field::Sqlstate => Cell::optional(match body {
            Body::SqlResult(b) => b.sqlstate.as_deref(),
            Body::SqlMessage(b) => b.sqlstate.as_deref(),
            Body::ControlDecision(b) => Some(b.code.as_str()),
            _ => None,
        }),
        Field::Host => hosts(body),
        Field::Url => match body {
            Body::HttpRequest(_) => Cell::optional(item.text.as_deref()),
            _ => Cell::Absent,
        },
        Field::Method => match body {
            Body::HttpRequest(b) => Cell::text(&b.method),
            Body::HttpTunnelOpened(_) => Cell::text("CONNECT"),
            _ => Cell::Absent,
        },
        Field::Status => match body {
            Body::HttpResponse(b) => Cell::int(b.status),
            _ => Cell::Absent,
        },
        Field::Address => Cell::optional(match body {
            Body::HttpRequest(b) => b.address.as_deref(),
            Body::HttpTunnelOpened(b) => b.address.as_deref(),
            _ => None,
        }),
        Field::Correlation => match correlation(body) {
            Some(id) => Cell::Text(vec![Cow::Owned(id.to_hex())]),
            None => Cell::Absent,
        },
        _ => Cell::Absent,
    }
}

fn reason(body: &Body) -> Option<&str> {
    match body {
        Body::SessionClosed(b) => Some(&b.reason),
        Body::HttpRequest(b) => b.refusal.as_deref(),
        Body::HttpTunnelOpened(b) => b.refusal.as_deref(),
        Body::ControlDecision(b) => Some(&b.reason),
        Body::ControlLimit(b) => Some(&b.limit_name),
        Body::Gap(b) => Some(&b.reason),
        _ => None,
    }
}

fn tables(body: &Body) -> Cell<'_> {
    let texts: Vec<Cow<'_, str>> = match body {
        Body::SqlStatement(b) => {
            b.relations_read.iter().chain(&b.relations_written).map(|r| Cow::Borrowed(r.as_str())).collect()
        }
        Body::SqlResult(b) => b.main_relation.as_deref().map(Cow::Borrowed).into_iter().collect(),
        Body::SqlCopy(b) => b.main_relation.as_deref().map(Cow::Borrowed).into_iter().collect(),
        _ => Vec::new(),
    };
    if texts.is_empty() { Cell::Absent } else { Cell::Text(texts) }
}

fn hosts(body: &Body) -> Cell<'_> {
    let (host, sni) = match body {
        Body::HttpRequest(b) => (&b.host, None),
        Body::HttpResponse(b) => (&b.host, None),
        Body::HttpTunnelOpened(b) => (&b.host, None),
        Body::HttpTunnelClosed(b) => (&b.host, b.sni.as_deref()),
        _ => return Cell::Absent,
    };
    let mut texts = vec![Cow::Borrowed(host.as_str())];
    texts.extend(sni.map(Cow::Borrowed));
    Cell::Text(texts)
}

fn correlation(body: &Body) -> Option<bodycam_record::Id16> {
    match body {
        Body::SessionOpened(b) => b.correlation,
        Body::SqlStatement(b) => b.correlation,
        Body::SqlResult(b) => b.correlation,
        Body::HttpRequest(b) => b.correlation,
        Body::HttpResponse(b) => b.correlation,
        Body::HttpTunnelOpened(b) => b.correlation,
        Body::HttpTunnelClosed(b) => b.correlation,
        _ => None,
    }
}

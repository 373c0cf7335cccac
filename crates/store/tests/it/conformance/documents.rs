//! Shared documents.

use super::case::cases;
use crate::support::{Bench, Done, slug};
use abbey_model::*;
use abbey_store::*;

cases! {
    a_text_has_versions_and_stale_writers_are_refused checks write_document document;
    entries_of_a_log_are_numbered checks write_document document;
    one_key_writes_once checks write_document;
    the_newest_version_of_each_document_is_listed checks documents;
    old_versions_of_a_text_are_removed checks write_document document;
}

fn write(name: &str, text: &str, based_on: Option<u64>) -> NewDocumentVersion {
    NewDocumentVersion {
        name: slug(name),
        text: text.into(),
        author: Principal::Agent(slug("agent-a")),
        based_on,
        key: None,
    }
}

fn history(bench: &Bench, name: &str, through: u64, limit: u32) -> Vec<(u64, String)> {
    let rows = bench.store().document(slug(name), through, limit).done();
    rows.into_iter().map(|d| (d.version, d.text)).collect()
}

fn a_text_has_versions_and_stale_writers_are_refused(bench: &mut Bench) {
    assert!(history(bench, "plan", u64::MAX, 10).is_empty());
    let first = bench
        .store()
        .write_document(write("plan", "one", Some(0)))
        .done();
    assert_eq!((first.version, first.at), (1, bench.store().now()));
    let stale = bench
        .store()
        .write_document(write("plan", "other", Some(0)))
        .wait();
    assert!(matches!(
        stale,
        Err(Error::Stale {
            seen: 0,
            current: 1,
            ..
        })
    ));
    bench
        .store()
        .write_document(write("plan", "two", Some(1)))
        .done();
    let all = [(2, "two".to_owned()), (1, "one".to_owned())];
    assert_eq!(history(bench, "plan", u64::MAX, 10), all);
    assert_eq!(history(bench, "plan", 1, 10), all[1..]);
    assert_eq!(history(bench, "plan", 2, 1), all[..1]);
}

fn entries_of_a_log_are_numbered(bench: &mut Bench) {
    for text in ["a", "b", "c"] {
        bench
            .store()
            .write_document(write("log", text, None))
            .done();
    }
    let numbers: Vec<u64> = history(bench, "log", 9, 10)
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    assert_eq!(numbers, [3, 2, 1]);
}

fn one_key_writes_once(bench: &mut Bench) {
    let keyed = |text| NewDocumentVersion {
        key: Some("k".into()),
        ..write("log", text, None)
    };
    let first = bench.store().write_document(keyed("a")).done();
    assert_eq!(bench.store().write_document(keyed("a")).done(), first);
    let other = bench.store().write_document(keyed("b")).wait();
    assert!(matches!(other, Err(Error::KeyReused(_))));
    assert_eq!(history(bench, "log", 9, 10).len(), 1);
}

fn the_newest_version_of_each_document_is_listed(bench: &mut Bench) {
    bench
        .store()
        .write_document(write("b", "1", Some(0)))
        .done();
    bench
        .store()
        .write_document(write("b", "2", Some(1)))
        .done();
    bench.store().write_document(write("a", "x", None)).done();
    let listed = bench.store().documents().done();
    let rows: Vec<_> = listed
        .iter()
        .map(|d| (d.name.as_str(), d.version, d.text.as_str()))
        .collect();
    assert_eq!(rows, [("a", 1, "x"), ("b", 2, "2")]);
    assert_eq!(listed[0].author, Principal::Agent(slug("agent-a")));
}

fn old_versions_of_a_text_are_removed(bench: &mut Bench) {
    for version in 0..120 {
        bench
            .store()
            .write_document(write("plan", "x", Some(version)))
            .done();
    }
    let kept = history(bench, "plan", u64::MAX, 1000);
    assert_eq!((kept.len(), kept[99].0), (100, 21));
}

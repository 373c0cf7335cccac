//! `abbey report`: lists reports, or makes one.

use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::output;
use crate::text::{Text, Tone};
use abbey_api::{ReportQuery, ReportsDoc, ReportsQuery};
use abbey_daemon::Home;

/// `abbey report`: lists the reports, or prints the one that `asked` names or matches as a question. Exit code 3 if
/// none does.
pub(crate) async fn cmd_report(
    home: &Home,
    json: bool,
    asked: &[String],
    locale: Option<&str>,
) -> Outcome {
    let client = operator_client(home)?;
    let asked = asked.join(" ");
    let locale = locale.map(str::to_owned);
    let list = async |question: &str| -> Result<ReportsDoc, Failure> {
        let query = ReportsQuery {
            locale: locale.clone(),
            q: (!question.is_empty()).then(|| question.to_owned()),
        };
        Ok(client.reports().list(&query).await?)
    };
    let all = list("").await?;
    if asked.is_empty() {
        match json {
            true => output::print_json(&all),
            false => all.reports.iter().for_each(|r| {
                output::print_hanging(Text::toned(Tone::Heading, &r.label).padded(11), &r.value)
            }),
        }
        return Ok(exit::OK);
    }
    // One word is a name; several words are a question.
    let name = match asked.contains(' ') {
        false => asked,
        true => match list(&asked).await?.reports.first() {
            Some(found) => found.label.clone(),
            None => {
                let names: Vec<&str> = all.reports.iter().map(|r| r.label.as_str()).collect();
                return Err(Failure::plain(format!("no report matches `{asked}`"))
                    .hint(format!("reports: {}", names.join(", ")))
                    .with_code(exit::NOT_FOUND));
            }
        },
    };
    let query = ReportQuery { locale };
    let doc = client.reports().show(&name, &query).await?;
    match json {
        true => output::print_json(&doc),
        false => output::print_lines(
            output::with_local_times(abbey_daemon::report_text(&doc).trim_end()).as_str(),
        ),
    }
    Ok(exit::OK)
}

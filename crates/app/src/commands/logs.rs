//! `abbey logs` and `abbey service logs`: what cells printed.

use crate::connect::operator_client;
use crate::durations::{self, milliseconds, parse_duration};
use crate::exit::{self, Failure, Outcome};
use crate::names::distinct;
use crate::output;
use crate::shown;
use crate::stdout;
use crate::text::{Text, Tone};
use crate::transcript::{
    print_transcript, print_transcripts_document, read_session_events, time_of,
};
use abbey_api::client::Client;
use abbey_api::{FleetQuery, LogLine, LogQuery, LogStream, ServicesQuery, Time};
use abbey_daemon::Home;
use abbey_model::Millis;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Names of agents, and of services as `service/NAME`; of services for `abbey service logs`.
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub(crate) names: Vec<String>,
    /// Every agent; without `abbey service` every service as well.
    #[arg(long, conflicts_with = "names")]
    pub(crate) all: bool,
    /// Wait for new lines and print them.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Number of existing lines to print, of each.
    #[arg(short = 'n', long, visible_alias = "tail", default_value_t = 100)]
    pub(crate) lines: u32,
    /// Only lines that are at most this old, like `10m`.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) since: Option<Duration>,
    /// What the agent and its model wrote, the calls of tools and what these answered, instead of the cell's output. The
    /// agent must be running.
    #[arg(long, conflicts_with_all = ["follow", "all"])]
    pub(crate) transcript: bool,
}

/// Lines that are asked for where the number is not what limits them.
const LINES_MAX: u32 = 10_000;
/// Pause between two looks for new lines.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Pause between two looks for a control plane that is away.
const AWAY_LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whose log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Agent,
    Service,
}

/// A log that is read, and where it was read up to.
struct Source {
    kind: Kind,
    name: String,
    seen: Seen,
}

/// Where a log was read up to: the time of its newest line, and how many lines have that time.
#[derive(Default)]
struct Seen(Option<(Time, usize)>);

impl Seen {
    /// Lines that are not seen yet, of all that the log has from some line on. Those of one time keep their order, so the
    /// first of them were seen.
    fn unseen(&mut self, lines: Vec<LogLine>) -> Vec<LogLine> {
        let mut skip = self.0.map_or(0, |(_, count)| count);
        let mut fresh = Vec::new();
        for line in lines {
            match self.0 {
                Some((at, _)) if line.at < at => {}
                Some((at, _)) if line.at == at && skip > 0 => skip -= 1,
                _ => fresh.push(line),
            }
        }
        if let Some(newest) = fresh.last().map(|l| l.at) {
            let same = fresh.iter().filter(|l| l.at == newest).count();
            let before = self.0.filter(|(at, _)| *at == newest);
            self.0 = Some((newest, same + before.map_or(0, |(_, count)| count)));
        }
        fresh
    }
}

impl Source {
    fn new(kind: Kind, name: String) -> Source {
        Source {
            kind,
            name,
            seen: Seen::default(),
        }
    }

    /// Whether both read the log of one cell.
    fn is_same(&self, other: &Source) -> bool {
        (self.kind, &self.name) == (other.kind, &other.name)
    }

    /// Lines that were not returned before, oldest first.
    async fn fresh(&mut self, client: &Client, lines: u32) -> Result<Vec<LogLine>, Failure> {
        let query = LogQuery { lines: Some(lines) };
        let read = match self.kind {
            Kind::Service => client.services().logs(&self.name, &query).await,
            Kind::Agent => client.agents().logs(&self.name, &query).await,
        };
        let doc = match read.map_err(Failure::from) {
            // A service is called by its name alone where no agent has it.
            Err(no_agent) if self.kind == Kind::Agent && no_agent.code() == exit::NOT_FOUND => {
                let service = client.services().logs(&self.name, &query).await;
                let doc = service.map_err(|_| no_agent)?;
                self.kind = Kind::Service;
                doc
            }
            read => read?,
        };
        Ok(self.seen.unseen(doc.lines))
    }
}

/// `abbey logs`: prints the last lines that agents wrote to their standard streams; new ones as they arrive with
/// `--follow`.
pub(crate) async fn cmd_logs(home: &Home, json: bool, args: &LogsArgs) -> Outcome {
    if args.transcript {
        return print_transcripts(home, json, args).await;
    }
    print_logs(home, json, Kind::Agent, args).await
}

/// Prints the newest events of the sessions of agents.
async fn print_transcripts(home: &Home, json: bool, args: &LogsArgs) -> Outcome {
    let oldest = args.since.map(since);
    let mut transcripts = Vec::new();
    for name in &distinct(&args.names) {
        let mut events = read_session_events(home, name, &[]).await?;
        events.retain(|e| oldest.is_none_or(|oldest| time_of(e).is_some_and(|at| at >= oldest)));
        let surplus = events.len().saturating_sub(args.lines as usize);
        transcripts.push((name.clone(), events.split_off(surplus)));
    }
    if json {
        print_transcripts_document(&transcripts);
        return Ok(exit::OK);
    }
    for (name, events) in &transcripts {
        if transcripts.len() > 1 {
            output::print_text(&Text::toned(Tone::Heading, &format!("{name}:")));
        }
        print_transcript(events);
    }
    Ok(exit::OK)
}

/// Prints the last log lines of agents or services, by time, with the name where there are several; new ones as they
/// arrive with `--follow`.
pub(crate) async fn print_logs(home: &Home, json: bool, kind: Kind, args: &LogsArgs) -> Outcome {
    if args.transcript {
        return Err(Failure::usage("a service has no transcript")
            .hint("`abbey logs AGENT --transcript` shows that of an agent"));
    }
    let mut client = operator_client(home)?;
    let oldest = args.since.map(since);
    let mut sources: Vec<Source> = match args.all {
        false => {
            let source = |name: &String| match name.strip_prefix("service/") {
                Some(service) => Source::new(Kind::Service, service.to_owned()),
                None => Source::new(kind, name.clone()),
            };
            distinct(&args.names).iter().map(source).collect()
        }
        true => all_sources(&client, kind).await?,
    };
    let width = sources.iter().map(|s| s.name.len()).max().unwrap_or(0);
    // Who follows reads on from the last line of all, so all are read, and the newest are printed.
    let (asked, mut most) = match (args.follow, oldest) {
        (false, None) => (args.lines, usize::MAX),
        (true, None) => (LINES_MAX, args.lines as usize),
        (_, Some(_)) => (LINES_MAX, usize::MAX),
    };
    // Whether a control plane that answered before is away.
    let (mut answered, mut is_away) = (false, false);
    loop {
        let mut fresh: Vec<(String, LogLine)> = Vec::new();
        let mut lines = Vec::new();
        let read = read_fresh(&mut sources, &client, asked, &mut lines).await;
        for (name, lines) in lines {
            let surplus = lines.len().saturating_sub(most);
            let lines = lines.into_iter().skip(surplus);
            let lines = lines.filter(|l| oldest.is_none_or(|oldest| l.at >= oldest));
            fresh.extend(lines.map(|l| (name.clone(), l)));
        }
        match read {
            Ok(()) => (answered, is_away) = (true, false),
            // Who follows goes on over a restart, also if the next control plane listens elsewhere. What was read is shown.
            Err(failure) if answered && failure.code() == exit::UNREACHABLE => {
                if !std::mem::replace(&mut is_away, true) {
                    output::print_message(
                        "the control plane does not answer; new lines follow once it does",
                    );
                }
            }
            Err(failure) => return Err(failure),
        }
        let several = sources.len() > 1;
        most = usize::MAX;
        fresh.sort_by_key(|(_, line)| line.at);
        for (name, line) in &fresh {
            match (json, several) {
                (true, false) => output::print_json_line(line),
                (true, true) => {
                    let named = serde_json::json!({
                        "name": name, "at": line.at, "stream": line.stream, "text": line.text,
                    });
                    output::print_json_line(&named);
                }
                (false, _) => {
                    let first = line_head(several.then_some(&name[..]), width, line);
                    output::print_hanging(first, line.text.as_str());
                }
            }
        }
        if !args.follow || stdout::is_broken() {
            return Ok(exit::OK);
        }
        // Also if there is nothing to print yet.
        shown::note();
        match is_away {
            true => {
                tokio::time::sleep(AWAY_LOOK_EVERY).await;
                client = operator_client(home).unwrap_or(client);
            }
            false => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Adds the lines of each log that were not read before, with its name, to `fresh`, also if a later log can't be read. A
/// service may be named twice, with and without `service/`; it is read once.
async fn read_fresh(
    sources: &mut Vec<Source>,
    client: &Client,
    asked: u32,
    fresh: &mut Vec<(String, Vec<LogLine>)>,
) -> Result<(), Failure> {
    let mut at = 0;
    while let Some(source) = sources.get_mut(at) {
        let lines = source.fresh(client, asked).await?;
        let (before, rest) = sources.split_at(at);
        let is_again = rest
            .first()
            .is_some_and(|s| before.iter().any(|other| other.is_same(s)));
        if is_again {
            sources.remove(at);
            continue;
        }
        if let Some(source) = rest.first() {
            fresh.push((source.name.clone(), lines));
        }
        at += 1;
    }
    Ok(())
}

/// What is before a line for people. Programs write to both of their streams what they like, so neither is marked; what
/// a microVM or the shim writes is.
fn line_head(name: Option<&str>, width: usize, line: &LogLine) -> Text {
    let mut shown = Text::toned(Tone::Faint, &output::local_time(line.at)).and(Tone::Plain, " ");
    if let Some(name) = name {
        shown = shown.and(Tone::Heading, &format!("{name:width$} "));
    }
    if matches!(line.stream, LogStream::Console | LogStream::Machine) {
        shown = shown.and(Tone::Faint, &format!("{}: ", line.stream));
    }
    shown
}

/// Every agent and service, or every service only.
async fn all_sources(client: &Client, kind: Kind) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    if kind == Kind::Agent {
        let fleet = client.agents().list(&FleetQuery::default()).await?;
        let names = fleet.agents.into_iter().map(|a| a.name);
        sources.extend(names.map(|name| Source::new(Kind::Agent, name)));
    }
    let doc = client.services().list(&ServicesQuery::default()).await?;
    let inside = doc.services.into_iter().filter(|s| !s.external);
    sources.extend(inside.map(|s| Source::new(Kind::Service, s.name)));
    Ok(sources)
}

/// The instant that lies this long before now.
fn since(age: Duration) -> Time {
    Time(durations::now() - Millis(milliseconds(age)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use abbey_model::Timestamp;

    fn lines(all: &[(i64, &str)]) -> Vec<LogLine> {
        let line = |(at, text): &(i64, &str)| LogLine {
            at: Time(Timestamp(*at)),
            stream: LogStream::Out,
            text: (*text).to_owned(),
        };
        all.iter().map(line).collect()
    }

    fn texts(lines: Vec<LogLine>) -> Vec<String> {
        lines.into_iter().map(|l| l.text).collect()
    }

    #[test]
    fn every_line_is_seen_once_also_those_of_one_time() {
        let mut seen = Seen::default();
        let all = [(1, "a"), (2, "b"), (2, "c"), (2, "d"), (3, "e"), (3, "f")];
        assert_eq!(texts(seen.unseen(lines(&all[..3]))), ["a", "b", "c"]);
        assert_eq!(texts(seen.unseen(lines(&all[..3]))), [""; 0]);
        assert_eq!(texts(seen.unseen(lines(&all[..5]))), ["d", "e"]);
        assert_eq!(texts(seen.unseen(lines(&all))), ["f"]);
        assert_eq!(texts(seen.unseen(lines(&all))), [""; 0]);
    }
}

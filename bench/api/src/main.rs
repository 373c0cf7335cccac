//! `GET agents` and `POST task` at 8 clients with kept connections, against a real house of ten
//! agents, beside the floor: `GET /healthz` of the same process.
//!
//! `bench-api ADDRESS TOKEN`; `bench/api/run` brings the house up and down.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;

/// One exchange on a kept connection; the body's length is read from the head.
fn exchange(stream: &mut TcpStream, request: &str, buffer: &mut Vec<u8>) -> u16 {
    stream.write_all(request.as_bytes()).expect("sent");
    buffer.clear();
    let mut chunk = [0u8; 16 << 10];
    loop {
        let n = stream.read(&mut chunk).expect("an answer");
        assert!(n > 0, "the house closed the connection");
        buffer.extend_from_slice(&chunk[..n]);
        let Some(head_end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&buffer[..head_end]).to_lowercase();
        let length: usize = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length: ")?.trim().parse().ok())
            .unwrap_or(0);
        if buffer.len() >= head_end + 4 + length {
            return head
                .split(' ')
                .nth(1)
                .and_then(|s| s.parse().ok())
                .unwrap_or(0);
        }
    }
}

fn measure(
    name: &str,
    address: &str,
    requests: usize,
    make: impl Fn(usize, usize) -> String + Sync,
) -> (f64, Duration) {
    let start = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let make = &make;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(address).expect("connected");
                    stream.set_nodelay(true).expect("nodelay");
                    let mut buffer = Vec::new();
                    let mut times = Vec::with_capacity(requests);
                    for n in 0..requests {
                        let request = make(client, n);
                        let one = Instant::now();
                        let status = exchange(&mut stream, &request, &mut buffer);
                        assert!((200..300).contains(&status), "{name}: status {status}");
                        times.push(one.elapsed());
                    }
                    times
                })
            })
            .collect();
        clients
            .into_iter()
            .flat_map(|c| c.join().expect("a client"))
            .collect()
    });
    let rate = (CLIENTS * requests) as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "| {name} | {rate:.0} | {:.2} | {:.2} |",
        at(50).as_secs_f64() * 1000.0,
        at(99).as_secs_f64() * 1000.0
    );
    (rate, at(99))
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (address, token) = (&args[1], &args[2]);
    println!("| {CLIENTS} clients | requests/s | p50 ms | p99 ms |");
    println!("|---|---|---|---|");
    let auth = format!("authorization: Bearer {token}");
    measure("floor: GET /healthz", address, 3000, |_, _| {
        "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()
    });
    measure("GET agents (10 agents)", address, 1000, |_, _| {
        format!("GET /api/v1/agents HTTP/1.1\r\nhost: x\r\n{auth}\r\n\r\n")
    });
    measure("POST task (durable)", address, 500, |_, n| {
        let body = format!("{{\"text\":\"write a poem, number {n}\"}}");
        format!(
            "POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\n{auth}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    });
}

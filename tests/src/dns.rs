//! A name server of a test's own, and addresses of this machine that nobody else in it has.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{Name, RData, Record, rdata::SRV},
};
use tokio::{net::UdpSocket, task::JoinHandle};

/// What it tells of a name.
#[derive(Debug, Clone)]
pub enum Told {
    /// Its address.
    Address(Ipv4Addr),
    /// The host and port of a service.
    Service(&'static str, u16),
    /// Nothing: it fails.
    Failure,
}

/// The name server. Dropped, it answers no more.
#[derive(Debug)]
pub struct NameServer {
    /// Where it is asked.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl NameServer {
    /// Tells this of names, and of all others that they don't exist.
    ///
    /// # Panics
    ///
    /// When it can't listen.
    pub async fn start<const N: usize>(told: [(&'static str, Told); N]) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let told = HashMap::from(told);
        let task = tokio::spawn(async move {
            let mut question = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let Ok(question) = Message::from_vec(&question[..length]) else {
                    continue;
                };
                let answer = answer(&question, &told).to_vec().expect("an answer");
                // Whoever asked may be gone.
                let _ = socket.send_to(&answer, from).await;
            }
        });
        Self { address, task }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(question: &Message, told: &HashMap<&'static str, Told>) -> Message {
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.authoritative = true;
    let Some(query) = question.queries.first() else {
        return answer;
    };
    answer.add_query(query.clone());
    let name = query.name.to_ascii().to_ascii_lowercase();
    let data = match told.get(name.trim_end_matches('.')) {
        None => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            return answer;
        }
        Some(Told::Failure) => {
            answer.metadata.response_code = ResponseCode::ServFail;
            return answer;
        }
        Some(Told::Address(address)) => RData::from(*address),
        Some(Told::Service(host, port)) => {
            let host = Name::from_ascii(format!("{host}.")).expect("a name");
            RData::SRV(SRV::new(10, 0, *port, host))
        }
    };
    // Of a name that has other records than were asked for, it says that there are none of these.
    if data.record_type() == query.query_type {
        answer.add_answer(Record::from_rdata(query.name.clone(), 60, data));
    }
    answer
}

/// An address of this machine on which no other test listens, so that ports which the specification fixes are free.
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    // A test runs in a process of its own: the number of the process tells them apart, and two bits its addresses.
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(
        127,
        64 + u8::try_from(next).expect("few"),
        high,
        low.clamp(1, 254),
    )
}

/// Whether this test may listen on ports below 1024.
pub async fn may_listen_on(address: IpAddr, port: u16) -> bool {
    match tokio::net::TcpListener::bind((address, port)).await {
        Ok(_) => true,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => false,
        Err(error) => panic!("{address}:{port}: {error}"),
    }
}

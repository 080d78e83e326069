//! What is large has a place while it is in memory. There are so many places, and of them so many for each peer: whoever
//! asks for much at once, or sends it, or reads it slowly, waits for itself.

use std::{
    collections::VecDeque, error::Error as StdError, fmt, hash::Hash, io, pin::pin, sync::Arc, time::Duration,
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::BodyExt as _;
use quick_cache::sync::Cache;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};

/// Peers that are told apart. Whoever is forgotten starts anew.
const PEERS: usize = 10_000;
/// How long anyone waits for a place.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a large body may take, to arrive or to be read by the other side: at first, and for each MiB of it.
const LEAST: Duration = Duration::from_secs(30);
const EACH_MIB: Duration = Duration::from_secs(10);
/// It is looked at after so many bytes how fast a body comes.
const STEP: usize = 1 << 20;
/// A large answer is handed on in pieces of as many bytes.
const PIECE: usize = 64 << 10;

/// Places for what is large.
pub struct Places<K> {
    all: Arc<Semaphore>,
    of_peers: Cache<K, Arc<Semaphore>>,
    each: usize,
}

/// A place, kept until this is dropped.
#[derive(Debug)]
pub struct Place {
    _of_peer: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// There was no place for a long time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this server has too much in hand")]
pub struct Crowded;

impl<K: Clone + Eq + Hash> Places<K> {
    /// `all` places, of which a peer has at most `each`.
    pub fn new(all: usize, each: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            of_peers: Cache::new(PEERS),
            each,
        }
    }

    /// Waits until there is one for `peer`, for at most half a minute.
    pub async fn take(&self, peer: &K) -> Result<Place, Crowded> {
        let of_peer = self
            .of_peers
            .get_or_insert_with(peer, || Ok::<_, Crowded>(Arc::new(Semaphore::new(self.each))))?;
        let all = Arc::clone(&self.all);
        let taking = async move {
            Some(Place {
                _of_peer: of_peer.acquire_owned().await.ok()?,
                _of_all: all.acquire_owned().await.ok()?,
            })
        };
        timeout(PATIENCE, taking).await.ok().flatten().ok_or(Crowded)
    }
}

impl<K> fmt::Debug for Places<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places")
            .field("free", &self.all.available_permits())
            .finish_non_exhaustive()
    }
}

/// How long a body may take of which there are as many bytes.
fn patience(bytes: usize) -> Duration {
    let mib = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
    LEAST + EACH_MIB * mib
}

/// Why a body was not read to its end.
#[derive(Debug)]
pub enum ReadError {
    /// It is larger than was allowed.
    TooLarge,
    /// There was no place for it.
    Crowded,
    /// It had grown large, and the rest came too slowly.
    TooSlow,
    /// The connection broke, or its framing did.
    Broken(Box<dyn StdError + Send + Sync>),
}

/// Reads a body of at most `limit` bytes. Where it grows beyond `small`, it waits for a `place`, which comes with it.
pub async fn read<B>(
    body: B,
    limit: usize,
    small: usize,
    place: impl Future<Output = Result<Place, Crowded>>,
) -> Result<(Bytes, Option<Place>), ReadError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let mut body = pin!(body);
    let mut pieces = Pieces::default();
    if !pieces.fill(&mut body, limit.min(small), limit).await? {
        return Ok((pieces.joined(), None));
    }
    let place = place.await.map_err(|Crowded| ReadError::Crowded)?;
    let began = Instant::now();
    loop {
        let next = pieces.length.saturating_add(STEP).min(limit);
        let until = began + patience(pieces.length);
        let filled = timeout_at(until, pieces.fill(&mut body, next, limit)).await;
        if !filled.map_err(|_| ReadError::TooSlow)?? {
            return Ok((pieces.joined(), Some(place)));
        }
    }
}

/// What was read of a body.
#[derive(Default)]
struct Pieces {
    all: VecDeque<Bytes>,
    length: usize,
}

impl Pieces {
    /// Reads on while there are at most `until` bytes; false at the body's end.
    async fn fill<B>(&mut self, body: &mut B, until: usize, limit: usize) -> Result<bool, ReadError>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        while self.length <= until {
            let Some(frame) = body.frame().await else {
                return Ok(false);
            };
            let frame = frame.map_err(|error| ReadError::Broken(error.into()))?;
            let Ok(data) = frame.into_data() else { continue };
            self.length += data.len();
            if self.length > limit {
                return Err(ReadError::TooLarge);
            }
            self.all.push_back(data);
        }
        Ok(true)
    }

    fn joined(mut self) -> Bytes {
        if self.all.len() == 1 {
            return self.all.pop_front().unwrap_or_default();
        }
        let mut joined = BytesMut::with_capacity(self.length);
        for piece in self.all {
            joined.extend_from_slice(&piece);
        }
        joined.freeze()
    }
}

/// A large body that goes out piece by piece. `held` is dropped when the last piece is on its way, or the other side
/// has taken too long to read: then the body ends in an error, which breaks off the exchange.
pub fn in_pieces(body: Bytes, held: impl Send + 'static) -> Body {
    let (pieces, coming) = mpsc::channel::<Bytes>(1);
    let length = body.len();
    tokio::spawn(async move {
        let until = Instant::now() + patience(body.len());
        for piece in body.chunks(PIECE) {
            // A copy: what waits for a slow reader must not keep the whole.
            let sent = timeout_at(until, pieces.send(Bytes::copy_from_slice(piece))).await;
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
        }
        drop((body, held));
    });
    let coming = stream::unfold((coming, length), |(mut coming, left)| async move {
        match coming.recv().await {
            Some(piece) => {
                let left = left - piece.len();
                Some((Ok(piece), (coming, left)))
            }
            None if left > 0 => Some((Err(io::Error::from(io::ErrorKind::TimedOut)), (coming, 0))),
            None => None,
        }
    });
    Body::from_stream(coming)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    fn body(pieces: &[usize]) -> Body {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|&length| Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'x'; length])))
            .collect();
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn what_is_small_needs_no_place() {
        let (read, place) = read(body(&[3, 4, 3]), 20, 10, pending())
            .await
            .expect("ten bytes");
        assert_eq!((read.len(), place.is_none()), (10, true));
    }

    #[tokio::test]
    async fn a_peer_waits_for_its_own_and_all_for_all() {
        let places = Places::new(3, 2);
        let first = places.take(&"a").await.expect("a place");
        let _second = places.take(&"a").await.expect("another");
        let mut third = pin!(places.take(&"a"));
        assert!(third.as_mut().now_or_never().is_none(), "a has two");
        let other = places.take(&"b").await.expect("b has none yet");
        drop(first);
        assert!(third.as_mut().now_or_never().is_some(), "one of a's is free");
        drop(other);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let places = Places::new(1, 1);
        let (large, held) = read(body(&[6, 5]), 20, 10, places.take(&"a"))
            .await
            .expect("a place");
        assert_eq!((large.len(), held.is_some()), (11, true));
        let crowded = read(body(&[6, 5]), 20, 10, places.take(&"b")).await;
        assert!(matches!(crowded, Err(ReadError::Crowded)), "{crowded:?}");
        drop(held);
        let stuck = Body::from_stream(
            stream::iter([Ok(Bytes::from_static(&[0; 11]))])
                .chain(stream::pending::<Result<Bytes, std::convert::Infallible>>()),
        );
        let slow = read(stuck, 20, 10, places.take(&"a")).await;
        assert!(matches!(slow, Err(ReadError::TooSlow)), "{slow:?}");
        assert!(
            places.take(&"b").now_or_never().is_some(),
            "its place is free again"
        );
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_read_to_its_end() {
        let endless = stream::repeat(Ok::<_, std::convert::Infallible>(Bytes::from_static(&[0; 7])));
        let places = Places::new(1, 1);
        let read = read(Body::from_stream(endless), 20, 10, places.take(&"a")).await;
        assert!(matches!(read, Err(ReadError::TooLarge)), "{read:?}");
    }

    #[tokio::test]
    async fn pieces_make_the_whole() {
        let whole: Bytes = (0..200_000_u32).map(|byte| byte as u8).collect();
        let read = in_pieces(whole.clone(), ())
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert_eq!(read, whole);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_has_no_place_for_ever() {
        let places = Places::new(1, 1);
        let place = places.take(&"a").await.expect("a place");
        let mut body = in_pieces(Bytes::from(vec![0; 10 * PIECE]), place);
        body.frame().await.expect("a piece").expect("a piece");
        tokio::time::sleep(patience(10 * PIECE)).await;
        assert!(places.take(&"a").await.is_ok());
        body.frame().await.expect("a piece").expect("what was on its way");
        let end = body.frame().await.expect("an end");
        assert!(end.is_err(), "what was cut short is not taken for the whole");
    }
}

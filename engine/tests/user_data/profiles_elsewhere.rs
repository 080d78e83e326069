//! Profiles of other servers' users: asked for there, and remembered for a while.

use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::future::{FutureExt as _, ready};
use hearth_engine::{
    Clock,
    profiles::{self, ProfileError},
    remote::{Asked, RemoteError, RemoteServers},
};
use parking_lot::Mutex;
use ruma::{
    MilliSecondsSinceUnixEpoch, ServerName, UserId,
    api::federation::query::get_profile_information::v1 as get_profile, user_id,
};

use super::*;

const MINUTE: i64 = 60_000;

/// What another server answers, and what it was asked.
#[derive(Debug, Default)]
struct Other {
    /// Nothing while it can't be reached.
    answer: Mutex<Option<Result<Value, u16>>>,
    asked: Mutex<Vec<Option<String>>>,
}

impl Other {
    fn says(&self, profile: Value) {
        *self.answer.lock() = Some(Ok(profile));
    }

    fn refuses(&self, status: u16) {
        *self.answer.lock() = Some(Err(status));
    }

    fn is_down(&self) {
        *self.answer.lock() = None;
    }

    /// What it was asked since this was asked last: a field, or the whole.
    fn asked(&self) -> Vec<Option<String>> {
        std::mem::take(&mut *self.asked.lock())
    }
}

#[derive(Debug)]
struct Line(Arc<Other>);

impl RemoteServers for Line {
    fn profile<'a>(
        &'a self,
        _: &'a ServerName,
        request: get_profile::Request,
    ) -> Asked<'a, get_profile::Response> {
        let field = request.field.map(|field| field.to_string());
        self.0.asked.lock().push(field);
        let answer = match &*self.0.answer.lock() {
            Some(Ok(profile)) => {
                let fields = profile.as_object().unwrap().clone();
                Ok(fields.into_iter().collect())
            }
            Some(Err(status)) => Err(RemoteError::Refused {
                status: *status,
                errcode: "M_SOMETHING".to_owned(),
                error: "No.".to_owned(),
                body: None,
            }),
            None => Err(RemoteError::Unreachable {
                reason: "it is down".to_owned(),
                retry_after: None,
            }),
        };
        ready(answer).boxed()
    }
}

#[derive(Debug)]
struct HandClock(AtomicI64);

impl HandClock {
    fn go_on(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(self.0.load(Ordering::Relaxed).try_into().unwrap())
    }
}

fn bob() -> &'static UserId {
    user_id!("@bob:other.example")
}

struct Scene {
    engine: Arc<Engine>,
    other: Arc<Other>,
    clock: Arc<HandClock>,
}

impl Scene {
    async fn set() -> Self {
        let db = TestDatabase::new().await.connect().await;
        let (other, clock) = (
            Arc::<Other>::default(),
            Arc::new(HandClock(AtomicI64::new(1_700_000_000_000))),
        );
        let outside = Outside {
            clock: Arc::<HandClock>::clone(&clock),
            remote: Arc::new(Line(Arc::clone(&other))),
            ..Outside::default()
        };
        let key = SigningKey::from_seed("1", &[1; 32]).unwrap();
        let config = Config::new(owned_server_name!("example.org"));
        let engine = Engine::start(config, db, key, outside).await.unwrap();
        Self { engine, other, clock }
    }

    async fn whole(&self) -> Result<Value, ProfileError> {
        let fields = profiles::get(&self.engine, bob()).await?;
        Ok(Value::Object(fields.into_iter().collect()))
    }

    async fn field(&self, field: &str) -> Result<Value, ProfileError> {
        profiles::get_field(&self.engine, bob(), field).await
    }
}

#[tokio::test]
async fn a_profile_elsewhere_is_asked_for_once_in_five_minutes() {
    let scene = Scene::set().await;
    let bob = json!({ "displayname": "Bob", "org.example.pronouns": ["he"] });
    scene.other.says(bob.clone());
    assert_eq!(scene.whole().await.unwrap(), bob);
    assert_eq!(scene.whole().await.unwrap(), bob);
    assert_eq!(scene.field("org.example.pronouns").await.unwrap(), json!(["he"]));
    assert_eq!(scene.other.asked(), [None]);
    // A field that wasn't among all is asked for by its name, and then known too.
    scene.other.says(json!({ "org.example.other": 1 }));
    for _ in 0..2 {
        assert_eq!(scene.field("org.example.other").await.unwrap(), 1);
    }
    assert_eq!(scene.other.asked(), [Some("org.example.other".to_owned())]);
    scene.clock.go_on(5 * MINUTE);
    scene.other.says(json!({ "displayname": "Robert" }));
    assert_eq!(scene.whole().await.unwrap(), json!({ "displayname": "Robert" }));
    assert_eq!(scene.other.asked(), [None]);
}

#[tokio::test]
async fn who_is_not_there_is_asked_for_again_after_a_minute() {
    let scene = Scene::set().await;
    scene.other.refuses(404);
    for _ in 0..2 {
        assert!(matches!(scene.whole().await, Err(ProfileError::UnknownUser)));
        assert!(matches!(
            scene.field("displayname").await,
            Err(ProfileError::UnknownField)
        ));
    }
    assert_eq!(scene.other.asked().len(), 2);
    scene.other.says(json!({ "displayname": "Bob" }));
    scene.clock.go_on(MINUTE);
    assert_eq!(scene.field("displayname").await.unwrap(), "Bob");
    assert_eq!(scene.whole().await.unwrap()["displayname"], "Bob");
    let long = "x".repeat(256);
    assert!(matches!(
        scene.field(&long).await,
        Err(ProfileError::UnknownField)
    ));
    assert_eq!(scene.other.asked().len(), 2);
}

#[tokio::test]
async fn what_a_server_said_is_told_while_it_can_not_be_asked() {
    let scene = Scene::set().await;
    scene.other.is_down();
    assert!(matches!(scene.whole().await, Err(ProfileError::Elsewhere(..))));
    scene.other.says(json!({ "displayname": "Bob" }));
    assert_eq!(scene.whole().await.unwrap()["displayname"], "Bob");
    scene.other.is_down();
    scene.clock.go_on(60 * MINUTE);
    assert_eq!(scene.whole().await.unwrap()["displayname"], "Bob");
    scene.other.refuses(500);
    assert_eq!(scene.whole().await.unwrap()["displayname"], "Bob");
    scene.clock.go_on(24 * 60 * MINUTE);
    assert!(matches!(scene.whole().await, Err(ProfileError::Elsewhere(..))));
}

#[tokio::test]
async fn nonsense_in_a_profile_elsewhere_is_left_out_and_a_huge_one_refused() {
    let scene = Scene::set().await;
    scene
        .other
        .says(json!({ "displayname": 7, "avatar_url": "https://no", "m.tz": [], "org.example": null }));
    assert_eq!(scene.whole().await.unwrap(), json!({ "org.example": null }));
    assert!(matches!(
        scene.field("displayname").await,
        Err(ProfileError::UnknownField)
    ));
    scene.clock.go_on(25 * 60 * MINUTE);
    scene.other.says(json!({ "org.example": "x".repeat(70_000) }));
    assert!(matches!(scene.whole().await, Err(ProfileError::Elsewhere(..))));
}

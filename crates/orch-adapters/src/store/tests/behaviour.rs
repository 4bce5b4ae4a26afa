//! Opening, audit, concurrent commits, backups that are refused, migrations.

use std::sync::Arc;

use orch_core::ports::store::{AuditQuery, Store};
use orch_domain::audit::AuditId;
use orch_domain::book::Change;
use orch_domain::name::UserId;
use orch_domain::registry::{RegistryCredential, RegistryHost};
use orch_domain::time::Timestamp;

use super::super::backup::BackupError;
use super::super::disk::{Disk, Unanswered, prepare};
use super::super::journal::Journal;
use super::super::layout::Layout;
use super::super::migration::{Migration, SCHEMA};
use super::super::table::{Operations, Table};
use super::super::{FOLDER, OpenError, SledStore};
use super::sample::launch;
use super::{changes, commit, shown};

#[test]
fn the_identity_is_made_once() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = SledStore::open(dir.path()).unwrap().identity().clone();
    let second = SledStore::open(dir.path()).unwrap().identity().clone();
    let other = SledStore::open(other.path()).unwrap().identity().clone();
    assert_eq!(first.controller_id, second.controller_id);
    assert_eq!(first.token_secret, second.token_secret);
    assert!(first.controller_id.len() == 16 && first.controller_id != other.controller_id);
    assert_ne!(first.token_secret, other.token_secret);
}

#[test]
fn a_second_owner_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    assert!(matches!(SledStore::open(dir.path()), Err(OpenError::InUse { .. })));
    drop(store);
    SledStore::open(dir.path()).unwrap();
}

#[test]
fn the_database_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let _store = SledStore::open(dir.path()).unwrap();
    let mode = fs_err::metadata(dir.path().join(FOLDER)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn the_audit_is_newest_first_and_filtered() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    for n in 0..10 {
        commit(&store, launch(n)).unwrap();
    }
    let ids = |query: AuditQuery| -> Vec<u64> {
        store.audit(&query).unwrap().iter().map(|it| it.id.0).collect()
    };
    let all = AuditQuery { limit: 100, ..AuditQuery::default() };
    assert_eq!(ids(all.clone()), (1..=10).rev().collect::<Vec<_>>());
    assert_eq!(ids(AuditQuery { limit: 2, ..all.clone() }), [10, 9]);
    assert_eq!(ids(AuditQuery { limit: 0, ..all.clone() }), [0; 0]);
    assert_eq!(ids(AuditQuery { before: Some(AuditId(3)), ..all.clone() }), [2, 1]);
    let bob = Some(UserId::try_new("bob").unwrap());
    assert_eq!(ids(AuditQuery { user: bob, limit: 2, ..all.clone() }), [10, 8]);
    let target = Some(super::sample::instance(4).id.to_string());
    assert_eq!(ids(AuditQuery { target, ..all.clone() }), [5]);
    assert_eq!(ids(AuditQuery { operation: Some("login".to_owned()), ..all.clone() }), [0; 0]);

    assert_eq!(store.trim_audit(AuditId(8)).unwrap(), 8);
    assert_eq!(ids(all.clone()), [10, 9]);
    assert_eq!(store.trim_audit(AuditId(u64::MAX)).unwrap(), 2);
    drop(store);
    let store = SledStore::open(dir.path()).unwrap();
    assert_eq!(store.last_audit_id(), AuditId(10), "trimmed ids do not return");
}

#[test]
fn commits_of_many_writers_are_all_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::open(dir.path()).unwrap());
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let store = store.clone();
            std::thread::spawn(move || {
                for n in 0..40 {
                    commit(&store, launch(writer * 1000 + n)).unwrap();
                }
            })
        })
        .collect();
    for it in writers {
        it.join().unwrap();
    }
    assert_eq!(store.load().unwrap().instances.len(), 640);
    drop(store);
    let rows = SledStore::open(dir.path()).unwrap().load().unwrap();
    assert_eq!((rows.instances.len(), rows.ports.len()), (640, 1280));
}

/// More than the journal holds, so that the tables take over several times under way; and a row larger than a page.
#[test]
fn the_journal_begins_anew_when_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let large = |n: u64| {
        let mut it = super::sample::instance(n);
        it.env.insert("TEXT".to_owned(), format!("{n} ").repeat(100_000));
        super::changes(vec![orch_domain::book::Change::Instance(it.id.clone(), Some(it.into()))])
    };
    for n in 0..100 {
        commit(&store, large(n)).unwrap();
    }
    let before = shown(store.load().unwrap());
    drop(store);
    let store = SledStore::open(dir.path()).unwrap();
    assert!(shown(store.load().unwrap()) == before);
    let journal = fs_err::metadata(dir.path().join(FOLDER).join("journal")).unwrap().len();
    assert!(journal <= 18 << 20, "{journal}");
}

#[test]
fn a_backup_goes_on_beside_commits_and_is_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::open(&dir.path().join("a")).unwrap());
    let writer = std::thread::spawn({
        let store = store.clone();
        move || (0..400).for_each(|n| commit(&store, launch(n)).unwrap())
    });
    for n in 0..5 {
        let file = dir.path().join(format!("backup{n}"));
        store.backup(&file, Timestamp::from_millis(0)).unwrap();
        let data_dir = dir.path().join(format!("restored{n}"));
        SledStore::restore(&file, &data_dir).unwrap();
        let restored = SledStore::open(&data_dir).unwrap();
        let rows = restored.load().unwrap();
        let n_audit =
            restored.audit(&AuditQuery { limit: 1000, ..AuditQuery::default() }).unwrap().len();
        assert_eq!((rows.ports.len(), n_audit), (2 * rows.instances.len(), rows.instances.len()));
    }
    writer.join().unwrap();
}

#[test]
fn a_backup_is_private_and_whole_or_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(&dir.path().join("a")).unwrap();
    for n in 0..20 {
        commit(&store, launch(n)).unwrap();
    }
    let file = dir.path().join("backup");
    store.backup(&file, Timestamp::from_millis(0)).unwrap();
    assert_eq!(fs_err::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let good = fs_err::read(&file).unwrap();
    let target = dir.path().join("b");
    let mut bad =
        vec![good[..good.len() / 2].to_vec(), good[..good.len() - 1].to_vec(), Vec::new()];
    for at in (0..good.len()).step_by(good.len() / 40) {
        let mut it = good.clone();
        it[at] ^= 1;
        bad.push(it);
    }
    let mut twice = good.clone();
    twice.extend_from_slice(&good);
    bad.push(twice);
    for it in bad {
        fs_err::write(&file, it).unwrap();
        let err = SledStore::restore(&file, &target).unwrap_err();
        assert!(matches!(err, BackupError::NotABackup { .. }), "{err}");
        assert!(!target.join(FOLDER).exists());
    }
    fs_err::write(&file, good).unwrap();
    SledStore::restore(&file, &target).unwrap();
    let again = SledStore::restore(&file, &target).unwrap_err();
    assert!(matches!(again, BackupError::NotEmpty { .. }), "{again}");
}

#[test]
fn migrations_run_in_order_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    prepare(&layout).unwrap();
    fn rename_all(tables: &super::super::tables::Tables, to: &str) -> Operations {
        let mut operations = Operations::default();
        let key = Table::Meta.key(b"greeting");
        let old = tables.get(&key).unwrap().unwrap_or_else(|| b"\"\"".to_vec());
        let old: String = serde_json::from_slice(&old).unwrap();
        operations.push(&key, Some(&format!("{old}{to}"))).unwrap();
        operations
    }
    let migrations = [
        Migration { to: SCHEMA + 1, run: |tables| Ok(rename_all(tables, "one ")) },
        Migration { to: SCHEMA + 2, run: |tables| Ok(rename_all(tables, "two")) },
    ];
    for _ in 0..2 {
        let disk =
            Disk::open_into(&layout, Unanswered::Kept, Arc::default(), SCHEMA + 2, &migrations)
                .unwrap();
        let tables = disk.tables();
        let tables = tables.read();
        let tables = tables.as_ref().unwrap();
        assert_eq!(tables.state().schema, SCHEMA + 2);
        let greeting = tables.get(&Table::Meta.key(b"greeting")).unwrap().unwrap();
        assert_eq!(greeting, b"\"one two\"");
    }
    // And the version before it refuses.
    let refused = Disk::open(&layout, Unanswered::Kept);
    assert!(
        matches!(refused, Err(OpenError::NewerSchema { found, known: SCHEMA }) if found == SCHEMA + 2)
    );
}

/// As the version before the logins at registries left it: of schema 1, and without their table, or those of batches.
#[test]
fn a_database_of_the_first_schema_is_taken_on() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(&dir.path().join(FOLDER));
    fs_err::create_dir_all(layout.folder()).unwrap();
    prepare(&layout).unwrap();
    {
        let disk = Disk::open_into(&layout, Unanswered::Kept, Arc::default(), 1, &[]);
        assert!(disk.is_err(), "a new database is of the newest schema");
        let disk = Disk::open(&layout, Unanswered::Kept).unwrap();
        let tables = disk.tables();
        let mut tables = tables.write();
        let tables = tables.as_mut().unwrap();
        tables.apply(std::iter::empty(), |it| it.schema = 1).unwrap();
        tables.make_durable().unwrap();
    }
    drop(Disk::open_into(&layout, Unanswered::Kept, Arc::default(), 1, &[]).unwrap());
    let store = SledStore::open(dir.path()).unwrap();
    let registry = RegistryHost::try_new("ghcr.io").unwrap();
    let credential = RegistryCredential {
        registry: registry.clone(),
        username: "ann".to_owned(),
        sealed_password: vec![1, 2, 3],
        set_by: UserId::try_new("ann").unwrap(),
        set_at: Timestamp::from_millis(7),
    };
    let change = Change::RegistryCredential(registry, Some(Arc::new(credential.clone())));
    commit(&store, changes(vec![change])).unwrap();
    assert!(store.batches().unwrap().is_empty());
    commit(&store, launch(0)).unwrap();
    drop(store);
    let store = SledStore::open(dir.path()).unwrap();
    assert_eq!(store.load().unwrap().registry_credentials, [credential]);
    assert_eq!(store.batches().unwrap().len(), 1);
    drop(store);
    let refused = Disk::open_into(&layout, Unanswered::Kept, Arc::default(), 1, &[]);
    assert!(matches!(refused.err(), Some(OpenError::NewerSchema { known: 1, .. })));
}

#[test]
fn a_start_that_was_never_finished_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(&dir.path().join(FOLDER));
    fs_err::create_dir_all(layout.folder()).unwrap();
    layout.begin().unwrap();
    fs_err::create_dir_all(layout.sled()).unwrap();
    fs_err::write(layout.sled_log(), b"half a database").unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    assert!(store.load().unwrap().instances.is_empty());
}

/// A record that is durable though nobody was answered: kept after a crash, dropped after a failure that was told.
#[test]
fn an_unanswered_record_counts_after_a_crash_only() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let store = SledStore::open(&whole).unwrap();
    commit(&store, launch(0)).unwrap();
    drop(store);
    let layout = Layout::new(&whole.join(FOLDER));
    {
        let disk = Disk::open(&layout, Unanswered::Kept).unwrap();
        let state = disk.tables().read().as_ref().unwrap().state().clone();
        let mut journal = Journal::open(&layout.journal()).unwrap();
        let last = journal.recover(state.epoch, state.epoch_start).unwrap();
        let operations = Operations::of(&launch(1)).unwrap();
        journal.append(last + 1, std::iter::once(operations.bytes())).unwrap();
    }
    let told = dir.path().join("told");
    super::copy(&whole, &told);
    drop(Disk::open(&Layout::new(&told.join(FOLDER)), Unanswered::Dropped).unwrap());
    for (data_dir, n_instances) in [(whole, 2), (told, 1)] {
        let store = SledStore::open(&data_dir).unwrap();
        assert_eq!(store.load().unwrap().instances.len(), n_instances);
        commit(&store, launch(2)).unwrap();
        drop(store);
        let store = SledStore::open(&data_dir).unwrap();
        assert_eq!(store.load().unwrap().instances.len(), n_instances + 1);
    }
}

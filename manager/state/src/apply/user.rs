//! Users.

use shoal_types::id::UserId;
use shoal_types::object::{Meta, User};
use shoal_types::spec::UserSpec;

use crate::cluster_state::Writer;
use crate::command::Outcome;
use crate::event::ObjectKind;
use crate::rejected::Rejected;

pub(super) fn create(w: &mut Writer<'_>, id: UserId, spec: UserSpec) -> Result<Outcome, Rejected> {
    w.id_is_free::<User>(id)?;
    name_is_free(w, id, &spec.name)?;
    if w.state.users().len() == 0 && !spec.is_lasting_admin() {
        return Err(Rejected::FirstUser { name: spec.name });
    }
    let meta = Meta::created(w.index, w.now);
    w.create(User { id, meta, spec });
    Ok(Outcome::Applied)
}

pub(super) fn update(
    w: &mut Writer<'_>,
    id: UserId,
    expected: u64,
    spec: UserSpec,
) -> Result<Outcome, Rejected> {
    let user = w.get::<User>(id)?;
    w.in_sequence(user.as_ref(), expected)?;
    name_is_free(w, id, &spec.name)?;
    if !spec.is_lasting_admin() {
        an_admin_stays(w, &user)?;
    }
    w.update_spec(User { spec, ..User::clone(&user) });
    Ok(Outcome::Applied)
}

pub(super) fn remove(w: &mut Writer<'_>, id: UserId) -> Result<Outcome, Rejected> {
    let user = w.get::<User>(id)?;
    an_admin_stays(w, &user)?;
    w.remove::<User>(id);
    Ok(Outcome::Applied)
}

fn name_is_free(w: &Writer<'_>, id: UserId, name: &str) -> Result<(), Rejected> {
    match w.state.user_by_name(name).filter(|other| other.id != id) {
        None => Ok(()),
        Some(holder) => {
            let (name, holder) = (name.to_owned(), holder.id.to_string());
            Err(Rejected::NameTaken { kind: ObjectKind::User, name, holder })
        }
    }
}

/// Without an admin nobody could make users any more, and one whose time ends is none from then on;
/// and without users at all, the state would look as one from before there were users.
fn an_admin_stays(w: &Writer<'_>, user: &User) -> Result<(), Rejected> {
    let another = || w.state.users().any(|other| other.id != user.id && other.is_lasting_admin());
    if user.is_lasting_admin() && !another() {
        return Err(Rejected::LastAdmin { name: user.spec.name.clone() });
    }
    Ok(())
}

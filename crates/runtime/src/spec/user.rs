//! Which numbers a user's name stands for, by the image's own `/etc/passwd` and `/etc/group`.

use serde::{Deserialize, Serialize};

/// The texts of the image's account files; absent files are empty.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

/// A user in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Further groups, ascending.
    pub additional_gids: Vec<u32>,
}

/// A user or group that cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// The name is not in the image.
    #[error(
        "user {0:?} is not in the image's /etc/passwd; use a number to run as a user without an account"
    )]
    UnknownUser(String),
    /// The group is not in the image.
    #[error(
        "group {0:?} is not in the image's /etc/group; use a number for a group without an entry"
    )]
    UnknownGroup(String),
}

impl ResolvedUser {
    /// The superuser without further groups.
    #[must_use]
    pub const fn root() -> Self {
        Self {
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
        }
    }

    /// Makes it a member of further groups.
    pub(crate) fn join(&mut self, groups: &[u32]) {
        self.additional_gids.extend(groups);
        self.additional_gids.sort_unstable();
        self.additional_gids.dedup();
    }

    /// Resolves `user[:group]`, each a name or a number; nothing at all is the superuser.
    ///
    /// As in Docker, an explicit group drops the memberships of `/etc/group`, and a number without an account has group 0.
    ///
    /// # Errors
    /// A name that the image does not know.
    pub fn resolve(text: &str, accounts: &Accounts) -> Result<Self, UserError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let account = accounts.account(user);
        let uid = match (&account, user.parse()) {
            (Some(account), _) => account.uid,
            (None, Ok(number)) => number,
            (None, Err(_)) => return Err(UserError::UnknownUser(user.to_owned())),
        };
        if let Some(group) = group {
            return Ok(Self {
                uid,
                gid: accounts.gid(group)?,
                additional_gids: Vec::new(),
            });
        }
        let gid = account.as_ref().map_or(0, |account| account.gid);
        let additional_gids = account
            .map(|account| accounts.memberships(account.name))
            .unwrap_or_default();
        Ok(Self {
            uid,
            gid,
            additional_gids,
        })
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

impl Accounts {
    fn account(&self, user: &str) -> Option<Account<'_>> {
        let number: Option<u32> = user.parse().ok();
        self.passwd
            .lines()
            .filter_map(parse_account)
            .find(|account| account.name == user || Some(account.uid) == number)
    }

    fn gid(&self, group: &str) -> Result<u32, UserError> {
        let named = self
            .group
            .lines()
            .filter_map(parse_group)
            .find(|(name, ..)| *name == group)
            .map(|(_, gid, _)| gid);
        named
            .or_else(|| group.parse().ok())
            .ok_or_else(|| UserError::UnknownGroup(group.to_owned()))
    }

    fn memberships(&self, user: &str) -> Vec<u32> {
        let entries = self.group.lines().filter_map(parse_group);
        let mut gids: Vec<u32> = entries
            .filter(|(_, _, members)| members.split(',').any(|member| member == user))
            .map(|(_, gid, _)| gid)
            .collect();
        gids.sort_unstable();
        gids.dedup();
        gids
    }
}

/// `name:password:uid:gid:…`; a malformed line is no account, as in the C library.
fn parse_account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
    Some(Account {
        name,
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
    })
}

/// `name:password:gid:members`.
fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let (name, gid) = (fields.next()?, fields.nth(1)?);
    Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<(u32, u32, Vec<u32>), UserError> {
        let accounts = Accounts {
            passwd:
                "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/:/bin/false\n100:x:7:8::/:\n"
                    .into(),
            group: "root:x:0:\nadm:x:4:web,root\naudio:x:29:web\nstaff:x:50:\n".into(),
        };
        ResolvedUser::resolve(text, &accounts)
            .map(|user| (user.uid, user.gid, user.additional_gids))
    }

    #[test]
    fn names_and_numbers_resolve_as_in_docker() {
        assert_eq!(resolve(""), Ok((0, 0, vec![4])));
        assert_eq!(resolve("web"), Ok((33, 34, vec![4, 29])));
        assert_eq!(resolve("33"), Ok((33, 34, vec![4, 29])));
        assert_eq!(resolve("web:staff"), Ok((33, 50, vec![])));
        assert_eq!(resolve("web:77"), Ok((33, 77, vec![])));
        assert_eq!(resolve("1234"), Ok((1234, 0, vec![])));
    }

    #[test]
    fn a_name_wins_over_an_equal_number() {
        assert_eq!(resolve("100"), Ok((7, 8, vec![])));
    }

    #[test]
    fn an_unknown_name_never_falls_back_to_root() {
        assert_eq!(
            resolve("nobody"),
            Err(UserError::UnknownUser("nobody".into()))
        );
        assert_eq!(
            resolve("web:wheel"),
            Err(UserError::UnknownGroup("wheel".into()))
        );
        assert_eq!(resolve("-1"), Err(UserError::UnknownUser("-1".into())));
    }
}

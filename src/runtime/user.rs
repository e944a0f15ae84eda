//! Who a container's process runs as: `user`, `user:group` and numeric forms, looked up in the passwd and group texts of the
//! image. Pure; whoever has the files reads them.

use crate::spec::User;

/// Largest passwd or group text that is looked at; images with larger ones get numeric users only.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Resolves an image's or a pod's user. `user` is `""` (root), `name`, `uid`, `name:group` or `uid:gid`. The primary group is
/// the one named, else that of the passwd entry, else 0. Additional groups are those that list the user's name in `group`
/// (none for a uid without an entry).
///
/// Errors: a name that is not in the files, worded as other runtimes do.
/// Source: OCI image spec config.md `User`; moby/sys/user GetExecUser.
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (user, group_wanted) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let entries = || {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid: u32 = fields.nth(1)?.parse().ok()?;
            let gid: u32 = fields.next()?.parse().ok()?;
            Some((name, uid, gid))
        })
    };
    let number = user.parse::<u32>().ok();
    let entry = match (user, number) {
        ("", _) => entries().find(|(_, uid, _)| *uid == 0),
        // A name wins over a number that looks the same.
        (_, Some(wanted)) => {
            entries().find(|(name, ..)| *name == user).or_else(|| entries().find(|(_, uid, _)| *uid == wanted))
        }
        (_, None) => entries().find(|(name, ..)| *name == user),
    };
    let (name, uid, mut gid) = match (entry, number) {
        (Some((name, uid, gid)), _) => (Some(name), uid, gid),
        (None, Some(uid)) => (None, uid, 0),
        (None, None) if user.is_empty() => (None, 0, 0),
        (None, None) => return Err(format!("unable to find user {user}: no matching entries in passwd file")),
    };
    let groups = || {
        group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid: u32 = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or("")))
        })
    };
    if let Some(wanted) = group_wanted {
        gid = match (groups().find(|(name, ..)| *name == wanted), wanted.parse::<u32>()) {
            (Some((_, gid, _)), _) => gid,
            (None, Ok(gid)) => gid,
            (None, Err(_)) => {
                return Err(format!("unable to find group {wanted}: no matching entries in group file"));
            }
        };
    }
    // An explicit group means exactly that group, as `docker run --user u:g` and containerd have it.
    let additional_gids = match (name, group_wanted) {
        (Some(name), None) => groups()
            .filter(|(_, group_id, members)| *group_id != gid && members.split(',').any(|m| m.trim() == name))
            .map(|(_, group_id, _)| group_id)
            .collect(),
        _ => Vec::new(),
    };
    Ok(User { uid, gid, additional_gids })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:www:/var/www:/bin/false\n# junk\nbroken:x:a:b\n1001:x:7:8::/:\n";
    const GROUP: &str = "root:x:0:\nwebgroup:x:34:\nmedia:x:50:bob,web\nlogs:x:51:web\n";

    #[test]
    fn users_resolve() {
        let check = |user: &str, expected: Result<(u32, u32, &[u32]), &str>| {
            let expected = expected
                .map(|(uid, gid, more)| User { uid, gid, additional_gids: more.to_vec() })
                .map_err(str::to_owned);
            assert_eq!(resolve(user, PASSWD, GROUP), expected, "{user:?}");
        };
        check("", Ok((0, 0, &[])));
        check("0", Ok((0, 0, &[])));
        check("web", Ok((33, 34, &[50, 51])));
        check("33", Ok((33, 34, &[50, 51])));
        check("web:media", Ok((33, 50, &[])));
        check("web:77", Ok((33, 77, &[])));
        check("4242", Ok((4242, 0, &[])));
        check("4242:media", Ok((4242, 50, &[])));
        check("1001", Ok((7, 8, &[])));
        check("nobody", Err("unable to find user nobody: no matching entries in passwd file"));
        check("web:none", Err("unable to find group none: no matching entries in group file"));
        assert_eq!(resolve("", "", ""), Ok(User::default()));
    }
}

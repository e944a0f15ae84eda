//! The harness itself: hosts see each other and nothing else, and leave nothing behind.

use std::sync::Arc;

use harness::{Host, Switch, sh};

#[test]
fn hosts_are_joined_only_to_each_other() {
    let links = sh("ip", &["-br", "link"]).unwrap();
    {
        let switch = Arc::new(Switch::new().unwrap());
        let a = Host::boot("a", &switch, [10, 99, 0, 1]).unwrap();
        let b = Host::boot("b", &switch, [10, 99, 0, 2]).unwrap();
        a.must("ping -c1 -W2 10.99.0.2").unwrap();
        a.must("ping -6 -c1 -W2 fd99::2").unwrap();
        assert!(!a.must("ip route").unwrap().contains("default"));
        assert_eq!(b.must("hostname").unwrap().trim(), "b");
        a.must("echo x > /etc/only-here").unwrap();
        assert!(!std::path::Path::new("/etc/only-here").exists());
        a.unplug().unwrap();
        assert!(!a.run("ping -c1 -W1 10.99.0.2").unwrap().ok());
        a.replug().unwrap();
        a.must("ping -c1 -W5 10.99.0.2").unwrap();
    }
    assert_eq!(links, sh("ip", &["-br", "link"]).unwrap());
}

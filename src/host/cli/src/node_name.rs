//! The names under which images are shown of which a file's name does not say all: `json:{..}`.

use instar_abi::record::Value;

use crate::given::{BACKING, Given, Role};
use crate::image_name::{Below, ImageName, option};

/// Options that change what an image holds: one opened with them is not the file alone, and is shown so.
const TELLING: [&str; 5] = ["offset", "size", "key-secret", "encrypt.key-secret", "force_size_calc"];

impl ImageName {
    /// The name under which `info` shows the image, if the file's own name does not say all.
    #[must_use]
    pub fn with_options(&self, format: &str) -> Option<String> {
        let mut node = self.over_file(self.below.len());
        // Backing files are not opened for `info`.
        let given: Vec<Given> = self.given.iter().filter(|given| given.role != Role::Image).cloned().collect();
        self.put_driver(&mut node, Some(format), &self.options, &given, "");
        (!node.is_plain).then(|| json(&node.tree))
    }

    /// The name of the driver below at that place, as `map` and `info` show it.
    #[must_use]
    pub fn below_name(&self, place: usize) -> Vec<u8> {
        let node = self.over_file(place + 1);
        if node.is_plain { self.path.as_os_str().as_encoded_bytes().to_vec() } else { json(&node.tree).into_bytes() }
    }

    /// The name of a file that was given for the image with these options, if it is not the file's own. `head`: what the keys
    /// of that image's options begin with in full.
    #[must_use]
    pub fn given_name(&self, file: &Given, owner: (&[(String, String)], &[Given]), head: &str) -> Option<Vec<u8>> {
        let node = self.given_node(file, owner, head);
        (!node.is_plain).then(|| json(&node.tree).into_bytes())
    }

    /// The file and the lowest `count` drivers over it.
    fn over_file(&self, count: usize) -> Node {
        let mut node = Node::file("file", self.path.as_os_str().as_encoded_bytes());
        for (place, below) in self.below.iter().enumerate().take(count) {
            let head = "file.".repeat(self.below.len() - place);
            self.put_driver(&mut node, Some(&below.format), &below.options, &below.given, &head);
        }
        node
    }

    fn given_node(&self, file: &Given, (options, given): (&[(String, String)], &[Given]), head: &str) -> Node {
        let mut node = Node::file(file.driver.as_deref().unwrap_or("file"), file.path.as_os_str().as_encoded_bytes());
        let own = file.head();
        for (place, Below { format, options, given }) in file.below.iter().enumerate() {
            let head = format!("{head}{own}{}", "file.".repeat(file.below.len() - place - 1));
            self.put_driver(&mut node, Some(format), options, given, &head);
        }
        if file.role == Role::Image {
            let prefix = BACKING.repeat(file.place);
            let strip = |(key, value): &(String, String)| Some((key.strip_prefix(&prefix)?.to_string(), value.clone()));
            let options: Vec<(String, String)> = options.iter().filter_map(strip).collect();
            let above = |given: &Given| Some(Given { place: given.place.checked_sub(file.place)?, ..given.clone() });
            let further: Vec<Given> = given.iter().filter_map(above).filter(|given| !is_itself(given)).collect();
            let driver = option(&options, "driver");
            self.put_driver(&mut node, driver.as_deref(), &options, &further, &format!("{head}{prefix}"));
        }
        node
    }

    /// Puts a driver over what there is.
    fn put_driver(
        &self,
        node: &mut Node,
        format: Option<&str>,
        options: &[(String, String)],
        given: &[Given],
        head: &str,
    ) {
        let mut all = Value::map();
        if let Some(format) = format {
            all.set("driver", format);
        }
        all.set("file", std::mem::replace(&mut node.tree, Value::map()));
        // It is a format over a file: the file's name stands for both.
        node.is_plain &= node.depth == 0;
        node.depth += 1;
        for (key, value) in options.iter().filter(|(key, _)| TELLING.contains(&key.as_str())) {
            node.is_plain = false;
            let is_number = self.numbers.contains(&format!("{head}{key}"));
            match value.parse::<u64>() {
                Ok(number) if is_number => all.set(key, number),
                _ => all.set(key, value.as_str()),
            };
        }
        for file in given {
            match file.role {
                Role::Image if file.place == 1 => {
                    node.is_plain = false;
                    all.set("backing", self.given_node(file, (options, given), head).tree);
                }
                Role::DataFile | Role::Header if file.place == 0 => {
                    all.set(file.role.child(), self.given_node(file, (options, given), head).tree);
                }
                _ => {}
            }
        }
        node.tree = all;
    }
}

/// The image that a place is counted from.
fn is_itself(given: &Given) -> bool {
    given.place == 0 && given.role == Role::Image
}

/// A part of a name.
struct Node {
    tree: Value,
    /// Drivers over the file.
    depth: usize,
    /// The file's name says all.
    is_plain: bool,
}

impl Node {
    fn file(driver: &str, name: &[u8]) -> Self {
        let mut tree = Value::map();
        tree.set("driver", driver).set("filename", name);
        Self { tree, depth: 0, is_plain: true }
    }
}

fn json(tree: &Value) -> String {
    format!("json:{}", instar_render::json_line(tree))
}

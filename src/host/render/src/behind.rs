//! Backing files among the children of the image that stands on them, as the stock tool shows those of an image below
//! another.

use instar_abi::ops::info::{ChildInfo, ImageInfo};

/// Images in each other that are shown: chains have 200 at most, and the stack of what prints them is bounded.
const DEPTH_MAX: usize = 512;

/// The image with all that stands in its lists of backing files below each other.
#[must_use]
pub fn unfold(image: ImageInfo) -> ImageInfo {
    among_children(image, DEPTH_MAX)
}

/// `room`: how many may be below it; what is deeper is left out.
fn among_children(mut image: ImageInfo, room: usize) -> ImageInfo {
    let mut behind = std::mem::take(&mut image.behind);
    behind.truncate(room);
    let room_behind = room - behind.len();
    let below = behind.into_iter().rev().fold(None, |below, layer| {
        let layer = with_children(layer, room_behind);
        Some(standing_on(layer, below))
    });
    standing_on(with_children(image, room), below)
}

fn with_children(image: ImageInfo, room: usize) -> ImageInfo {
    let inner = |child: ChildInfo| Some(ChildInfo { info: among_children(child.info, room.checked_sub(1)?), ..child });
    let children = image.children.map(|children| children.into_iter().filter_map(inner).collect());
    ImageInfo { children, ..image }
}

/// The backing file comes first.
fn standing_on(mut image: ImageInfo, below: Option<ImageInfo>) -> ImageInfo {
    if let Some(info) = below {
        image.children.get_or_insert_default().insert(0, ChildInfo { name: "backing".into(), info });
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many images are in each other below this one.
    fn depth(image: &ImageInfo) -> usize {
        let children = image.children.iter().flatten();
        children.map(|child| 1 + depth(&child.info)).max().unwrap_or(0)
    }

    fn named(name: &str, behind: Vec<ImageInfo>) -> ImageInfo {
        ImageInfo { filename: name.into(), behind, ..ImageInfo::default() }
    }

    #[test]
    fn one_stands_on_the_other() {
        let shown = unfold(named("a", vec![named("b", Vec::new()), named("c", Vec::new())]));
        let below = |image: &ImageInfo| image.children.iter().flatten().next().map(|child| child.info.clone());
        let b = below(&shown).expect("it has one");
        let c = below(&b).expect("that, too");
        assert_eq!((&b.filename[..], &c.filename[..], below(&c)), (&b"b"[..], &b"c"[..], None));
        assert!(b.behind.is_empty() && shown.behind.is_empty());
    }

    #[test]
    fn what_is_too_deep_is_left_out() {
        let many = |behind: &ImageInfo| vec![behind.clone(); 400];
        let inner = named("x", many(&named("y", Vec::new())));
        let file = ChildInfo { name: "file".into(), info: inner };
        let last = ImageInfo { children: Some(vec![file]), ..named("z", Vec::new()) };
        let mut behind = many(&named("y", Vec::new()));
        behind.push(last);
        assert_eq!(depth(&unfold(named("a", behind))), DEPTH_MAX);
    }
}

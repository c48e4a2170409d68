//! The outlines as signed distances, after the well-known closed forms of Inigo Quilez. Apart from
//! `render` because dense labels ask the same question of the same outlines.

use super::palette::Shape;
use super::scenario::Pose;

/// Distance from (`x`, `y`) to the outline, negative inside, in units of the radius; y points down.
/// Every outline lies within 1.15 of the centre.
pub fn distance(shape: Shape, x: f32, y: f32) -> f32 {
    match shape {
        Shape::Circle => x.hypot(y) - 1.0,
        Shape::Ring => (x.hypot(y) - 0.76).abs() - 0.24,
        Shape::Square => rectangle(x, y, 0.84, 0.84),
        Shape::Cross => rectangle(x, y, 1.0, 0.33).min(rectangle(x, y, 0.33, 1.0)),
        Shape::Triangle => {
            let (x, y) = (x.abs(), y - 0.18);
            (0.866_025_4 * x - 0.5 * y).max(y) - 0.6
        }
        Shape::Star => star(x, y),
        Shape::Heart => heart(0.58 * x.abs(), 0.54 - 0.58 * y) / 0.58,
    }
}

/// The same for an object at a pose, in picture widths.
pub fn distance_at(shape: Shape, tilt: f32, pose: &Pose, x: f32, y: f32) -> f32 {
    let (sin, cos) = tilt.sin_cos();
    let (x, y) = ((x - pose.x) / pose.radius, (y - pose.y) / pose.radius);
    pose.radius * distance(shape, cos * x + sin * y, cos * y - sin * x)
}

fn rectangle(x: f32, y: f32, half_width: f32, half_height: f32) -> f32 {
    let (x, y) = (x.abs() - half_width, y.abs() - half_height);
    x.max(0.0).hypot(y.max(0.0)) + x.max(y).min(0.0)
}

/// Five points: the plane folded onto one half point, whose edge is a line.
fn star(x: f32, y: f32) -> f32 {
    const OUTER: f32 = 1.12;
    const INNER: f32 = 0.47;
    let sector = std::f32::consts::TAU / 5.0;
    let (sin, cos) = (sector / 2.0).sin_cos();
    let angle = (x.atan2(-y) + sector / 2.0).rem_euclid(sector) - sector / 2.0;
    let length = x.hypot(y);
    let (along, beside) = (length * angle.cos(), length * angle.abs().sin());
    let (edge_x, edge_y) = (INNER * cos - OUTER, INNER * sin);
    ((along - OUTER) * edge_y - beside * edge_x) / edge_x.hypot(edge_y)
}

fn heart(x: f32, y: f32) -> f32 {
    if x + y > 1.0 {
        return (x - 0.25).hypot(y - 0.75) - std::f32::consts::SQRT_2 / 4.0;
    }
    let corner = 0.5 * (x + y).max(0.0);
    let nearest = x.hypot(y - 1.0).min((x - corner).hypot(y - corner));
    nearest * (x - y).signum()
}

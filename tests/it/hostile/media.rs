//! Files that only a generator should hold: what their headers promise is far from what they are.

/// A GIF of `frames` pictures, each one pixel on a canvas of `width` x `height`.
pub fn gif(width: u16, height: u16, frames: usize) -> Vec<u8> {
    let canvas = [width.to_le_bytes(), height.to_le_bytes()].concat();
    let palette = [0x80, 0, 0, 0, 0, 0, 255, 255, 255];
    // At the corner, 1 x 1, no palette of its own; two bits a code: clear, colour 0, end.
    let picture = [0x2C, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 0x01, 0];
    [b"GIF89a", &canvas[..], &palette, &picture.repeat(frames), b";"].concat()
}

/// A PNG with the given header and nothing of its pixels but `idat`.
pub fn png(width: u32, height: u32, depth: u8, colour: u8, idat: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n", &chunk(b"IHDR", &header)[..], &chunk(b"IDAT", idat), &chunk(b"IEND", &[])].concat()
}

fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let checked = [&name[..], content].concat();
    [&(content.len() as u32).to_be_bytes()[..], &checked, &crc32(&checked).to_be_bytes()].concat()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

/// A lossless WebP whose header tells the size, at most 16384 each; its data are zeros.
pub fn webp(width: u32, height: u32) -> Vec<u8> {
    let size = (width - 1) | ((height - 1) << 14);
    riff(b"VP8L", &[&[0x2F], &size.to_le_bytes()[..], &[0; 19]].concat())
}

/// A WebP that promises an animation on a canvas of 16777215 x 16777215 and holds none.
pub fn webp_animation() -> Vec<u8> {
    riff(b"VP8X", &[2, 0, 0, 0, 0xFE, 0xFF, 0xFF, 0xFE, 0xFF, 0xFF])
}

fn riff(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let chunk = [&name[..], &(content.len() as u32).to_le_bytes(), content].concat();
    [b"RIFF", &(4 + chunk.len() as u32).to_le_bytes()[..], b"WEBP", &chunk].concat()
}

/// A BMP of 24 bits a pixel; a negative height means that its rows run downwards.
pub fn bmp(width: i32, height: i32, pixels: &[u8]) -> Vec<u8> {
    let size = (54 + pixels.len() as u32).to_le_bytes();
    let header = [&40u32.to_le_bytes()[..], &width.to_le_bytes(), &height.to_le_bytes(), &[1, 0, 24, 0]].concat();
    [b"BM", &size[..], &[0; 4], &54u32.to_le_bytes(), &header, &[0; 24], pixels].concat()
}

/// A JPEG's header alone, of a picture of `width` x `height`, and its end.
pub fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let size = [height.to_be_bytes(), width.to_be_bytes()].concat();
    [b"\xFF\xD8\xFF\xC0\0\x11\x08", &size[..], b"\x03\x01\x11\0\x02\x11\0\x03\x11\0\xFF\xD9"].concat()
}

//! Where a site lies, and how far two sites are from each other.
//!
//! Invariant: a position is on the earth. It is kept in whole microdegrees (11 cm), so that what was
//! written and what is compared is the same.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Of the earth, in kilometres: the mean radius that the haversine formula wants.
const EARTH_KM: f64 = 6371.0088;
const MICRO: f64 = 1e6;

/// Degrees of latitude or longitude.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Degrees(i32);

impl Degrees {
    /// So many; `None` for what is none of a circle.
    #[must_use]
    pub fn new(degrees: f64) -> Option<Self> {
        if !(-180.0..=180.0).contains(&degrees) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "180 million fits")]
        let micro = (degrees * MICRO).round() as i32;
        Some(Self(micro))
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> f64 {
        f64::from(self.0) / MICRO
    }
}

impl Serialize for Degrees {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.get())
    }
}

impl<'de> Deserialize<'de> for Degrees {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let degrees = f64::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("{degrees} is not within -180 and 180"));
        Self::new(degrees).ok_or_else(wrong)
    }
}

/// A latitude and a longitude.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Position(Degrees, Degrees);

impl Position {
    /// What a configuration says; `None` when it says nothing.
    ///
    /// # Errors
    /// For anything but a latitude and a longitude.
    pub(super) fn read(written: &[Degrees]) -> Result<Option<Self>, String> {
        match written {
            [] => Ok(None),
            [latitude, longitude] if latitude.get().abs() <= 90.0 => {
                Ok(Some(Self(*latitude, *longitude)))
            }
            [latitude, _] => Err(format!("a latitude is -90 to 90, not {}", latitude.get())),
            other => {
                Err(format!("is [latitude, longitude] in degrees, not {} numbers", other.len()))
            }
        }
    }

    /// In degrees.
    #[must_use]
    pub fn degrees(self) -> (f64, f64) {
        (self.0.get(), self.1.get())
    }

    /// Kilometres along the surface.
    #[must_use]
    pub fn km_to(self, other: Self) -> f64 {
        let radians = |of: Self| (of.0.get().to_radians(), of.1.get().to_radians());
        let ((from_lat, from_lon), (to_lat, to_lon)) = (radians(self), radians(other));
        let half = |a: f64, b: f64| ((b - a) / 2.0).sin().powi(2);
        let chord = half(from_lat, to_lat) + from_lat.cos() * to_lat.cos() * half(from_lon, to_lon);
        2.0 * EARTH_KM * chord.clamp(0.0, 1.0).sqrt().asin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(latitude: f64, longitude: f64) -> Position {
        let written = [latitude, longitude].map(|degrees| Degrees::new(degrees).unwrap());
        Position::read(&written).unwrap().unwrap()
    }

    #[test]
    fn evs_03_the_distance_of_two_sites_is_the_one_along_the_surface() {
        let (paris, london) = (at(48.8566, 2.3522), at(51.5074, -0.1278));
        let km = paris.km_to(london);
        assert!((343.0..345.0).contains(&km), "{km}");
        assert!(paris.km_to(paris) < 1e-9);
        let around = at(0.0, 179.9).km_to(at(0.0, -179.9));
        assert!((22.0..22.5).contains(&around), "{around}");
        let half = at(90.0, 0.0).km_to(at(-90.0, 0.0));
        assert!((20_015.0..20_016.0).contains(&half), "{half}");
    }

    #[test]
    fn what_is_no_place_is_refused() {
        assert_eq!(Position::read(&[]), Ok(None));
        let degrees = |all: &[f64]| all.iter().map(|d| Degrees::new(*d).unwrap()).collect();
        for wrong in [vec![1.0], vec![91.0, 1.0], vec![1.0, 2.0, 3.0]] {
            let written: Vec<Degrees> = degrees(&wrong);
            assert!(Position::read(&written).is_err(), "{wrong:?}");
        }
        assert_eq!(Degrees::new(181.0), None);
        assert_eq!(Degrees::new(f64::NAN), None);
    }
}
